"""How an alert leaves Gatepost: as JSON to the operator's command and by POST to his webhook.

The contract. An alert is one JSON object in UTF-8 on one line, with these texts:

    {"event": "token_state", "account": "ann@example.com", "state": "needs_consent", "detail": "invalid_grant",
     "since": "2026-11-23T12:00:00+00:00", "node": "mail1"}
    {"event": "provider_client", "upstream": "office", "state": "rejected", "detail": "invalid_client/AADSTS7000222",
     "since": "...", "node": "mail1"}

    {"event": "new_network", "account": "ann@example.com", "app_password": "4f0c9a1b2d", "name": "Scanner",
     "protocol": "smtp", "address": "198.51.100.7", "client": "HP Scan", "since": "...", "node": "mail1"}

    event       "token_state", with "account": one mailbox; its state is "needs_consent", "upstream_refuses", "failing"
                (for 15 minutes) or "fresh" (what was told before is over)
                "provider_client", with "upstream": the client id or secret of [upstream.NAME.oauth2], for all its
                mailboxes; its state is "rejected" or "accepted"
                "new_network" (with [alerts] new_network = true): an app password was used, which was used before, but
                never from this network; the address is the client's, and what it calls itself may be empty
    detail      the provider's error code, or what the mail server said; may be empty. Never a token or password
    since       when this state began, ISO 8601 in UTC
    node        the machine that tells; another one may have noticed

command     gets it on standard input, which is then closed; its output is dropped, its environment is PATH, HOME, LANG
            and TZ only. Exit status 0 within 30 s means taken; after that its process group is killed.
webhook     gets it as application/json. Any 2xx answer within 10 s means taken; redirects are not followed. Outbound
            proxies come from the usual environment variables.

An alert that at least one of the two took counts as told. If none did it is tried again, after 30 s at first and ten
minutes at last, for as long as it is true. One that was under way when its process was killed is told by another two
minutes later, perhaps a second time. Keys may be added; a receiver should ignore those that it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl

import httpx2

from proxy.config import AlertsConfig
from proxy.logs import Line

logger = logging.getLogger("gatepost.alerts")

COMMAND_S = 30.0
WEBHOOK_S = 10.0
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ")  # ours may hold secrets (env: sources)


class Hooks:
    """The operator's command and webhook. Owned by build()."""

    def __init__(self, config: AlertsConfig, *, command_s: float = COMMAND_S, webhook_s: float = WEBHOOK_S) -> None:
        self._config = config
        self._command_s = command_s
        self._webhook_s = webhook_s

    async def deliver(self, alert: bytes) -> bool:
        """Give it to both at once. Returns whether one of them took it, or none is configured."""
        ways = []
        if self._config.command:
            ways.append(self._run(self._config.command, alert))
        if self._config.webhook is not None:
            ways.append(self._post(self._config.webhook, alert))
        failures = await asyncio.gather(*ways)
        for failure in failures:
            if failure is not None:
                logger.warning("%s", failure)
        return not failures or None in failures

    async def _run(self, command: tuple[str, ...], alert: bytes) -> Line | None:
        """What went wrong, or None."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,  # so that what it started can be killed with it
            )
        except OSError as error:
            return Line("alert_failed", by="command", error=error.strerror or type(error).__name__)
        try:
            async with asyncio.timeout(self._command_s):
                await process.communicate(alert)  # a command that does not read it is none of our business
        except TimeoutError:
            return Line("alert_failed", by="command", error=f"still running after {self._command_s:g} s")
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return Line("alert_failed", by="command", status=process.returncode) if process.returncode else None

    async def _post(self, url: str, alert: bytes) -> Line | None:
        # A new client each time: alerts are rare, and the roots may have been renewed since the last one.
        try:
            context = await asyncio.to_thread(ssl.create_default_context)
            async with (
                asyncio.timeout(self._webhook_s),
                httpx2.AsyncClient(verify=context, timeout=self._webhook_s, follow_redirects=False) as client,
                client.stream("POST", url, content=alert, headers={"content-type": "application/json"}) as response,
            ):
                status = response.status_code
        except (httpx2.HTTPError, httpx2.InvalidURL, ssl.SSLError, OSError) as error:  # TimeoutError is one
            # The exception's text may repeat the address, which may hold a secret.
            return Line("alert_failed", by="webhook", error=type(error).__name__)
        return None if 200 <= status < 300 else Line("alert_failed", by="webhook", status=status)
