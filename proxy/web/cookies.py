"""What a browser holds: a random text before the sign-in, another one after it; and what follows from them.

The store knows hashes of both alone. Cookies have the prefix __Host- (RFC 6265bis 4.1.3.2), so that no other host and
no clear-text page can plant them; only on http:// (loopback) they go without it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from starlette.requests import Request
from starlette.responses import Response

from proxy.store.rows import Once

BROWSER_S = 1_800  # longer than a sign-in may take (oauth.signin.TICKET_S); renewed by each
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")
_ONCE = re.compile(r"[A-Za-z0-9_-]{22}\.[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Cookies:
    """Names and attributes of the cookies for one public address."""

    is_https: bool

    def session(self, request: Request) -> str:
        """The browser's session id, "" without one."""
        return self._read(request, "gatepost")

    def browser(self, request: Request) -> str:
        return self._read(request, "gatepost-browser")

    def set_session(self, response: Response, value: str, max_age_s: int) -> None:
        self._set(response, "gatepost", value, max_age_s)

    def set_browser(self, response: Response, value: str) -> None:
        self._set(response, "gatepost-browser", value, BROWSER_S)

    def drop_session(self, response: Response) -> None:
        self._set(response, "gatepost", "", 0)

    def _name(self, name: str) -> str:
        return f"__Host-{name}" if self.is_https else name

    def _read(self, request: Request, name: str) -> str:
        value = request.cookies.get(self._name(name), "")
        return value if _VALUE.fullmatch(value) else ""

    def _set(self, response: Response, name: str, value: str, max_age_s: int) -> None:
        # Lax: the browser comes back from the provider, which Strict would take for a stranger's link.
        response.set_cookie(
            self._name(name), value, max_age=max_age_s, path="/", secure=self.is_https, httponly=True, samesite="lax"
        )


def drawn() -> str:
    """A new value for a cookie: 256 bits."""
    return secrets.token_urlsafe(32)


def hash_of(session: str) -> str:
    """What the store knows a session by."""
    return hashlib.sha256(f"gatepost session\n{session}".encode()).hexdigest()


def csrf_of(session: str) -> str:
    """What every form of this session carries."""
    return _mac(session, "csrf")


def is_csrf(session: str, given: str) -> bool:
    return given.isascii() and hmac.compare_digest(csrf_of(session), given)


def once_of(session: str) -> str:
    """For one form: it makes one thing, however often it is sent."""
    text = secrets.token_urlsafe(16)
    return f"{text}.{_mac(session, f'once {text}')}"


def read_once(session: str, given: str, now: datetime, session_s: int) -> Once | None:
    """The token of a form that this session was given; None for any other."""
    text, _, mac = given.partition(".")
    if not _ONCE.fullmatch(given) or not hmac.compare_digest(_mac(session, f"once {text}"), mac):
        return None
    # No session, and so no form, lasts longer than that.
    until = now + timedelta(seconds=session_s + 60)
    return Once(hashlib.sha256(f"gatepost once\n{given}".encode()).hexdigest(), until)


def state_once(state: str, now: datetime, ticket_s: int) -> Once:
    """The state of a sign-in, which ends once."""
    digest = hashlib.sha256(f"gatepost state\n{state}".encode()).hexdigest()
    return Once(digest, now + timedelta(seconds=ticket_s + 60))


def _mac(session: str, use: str) -> str:
    return hmac.new(session.encode(), f"gatepost {use}".encode(), hashlib.sha256).hexdigest()
