"""A real page in front of a lab: its own process over TLS, and a browser of plain HTTP that walks through sign-ins."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Self
from urllib.parse import urljoin

import httpx2

from tests.connecting import OAUTH2, prepare
from tests.gate import POLL_S, READY_S, STOP_S, Gate, GateError, _environment
from tests.lab import Lab
from tests.lab.person import typed_by, walk
from tests.lab.ports import PortReservation
from tests.lab.talk import TIMEOUT_S

WEB = """
[web]
address = "127.0.0.1:{port}"
public_url = "{url}"
mail_host = "localhost"
{more}
"""


class WebGate(Gate):
    """A Gate with a page. `web` is its address; `web_log` what it logged."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        super().__init__(lab, directory)
        self.serve_words = ("--no-web",)  # the page runs by itself, with a log of its own
        self.web = ""
        self.web_log_file = directory / "web.log"
        self.page: subprocess.Popen[bytes] | None = None
        self._ports = PortReservation()

    @classmethod
    def made(cls, lab: Lab, directory: Path, more: str = "", *, is_https: bool = True, limits: str = "") -> Self:
        """Set up, not started; `more` are lines of [web]."""
        gate = prepare(lab, directory, OAUTH2)
        made = cls(lab, directory)
        port = made._ports.take()
        made.web = f"https://localhost:{port}" if is_https else f"http://127.0.0.1:{port}"
        lab.idp.allow_redirect(f"{made.web}/signed-in")
        text = gate.config.read_text()
        # Mail programs are told the ports, so that they must be known before anything listens.
        text = re.sub(r'"127\.0\.0\.1:0"', lambda _: f'"127.0.0.1:{made._ports.take()}"', text)
        made.config.write_text(text + limits + WEB.format(port=port, url=made.web, more=more))
        return made

    def start_page(self) -> None:
        """Start `gatepost serve --web-only` and wait until it is ready."""
        with self.web_log_file.open("ab") as log:
            begin = log.tell()
            self.page = subprocess.Popen(
                [sys.executable, "-m", "proxy", "serve", "--web-only", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
            )
        deadline = time.monotonic() + READY_S
        while "event=web_ready" not in self.web_log()[begin:]:
            if self.page.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise GateError(f"the page did not get ready:\n{self.web_log()[begin:]}")
            time.sleep(POLL_S)

    def stop_page(self) -> int:
        assert self.page is not None
        self.page.send_signal(signal.SIGTERM)
        try:
            return self.page.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise GateError(f"the page did not end:\n{self.web_log()[-2000:]}") from None

    def kill(self) -> None:
        super().kill()
        if self.page is not None and self.page.poll() is None:
            self.page.kill()
            self.page.wait()
        self._ports.release()

    def web_log(self) -> str:
        return self.web_log_file.read_text() if self.web_log_file.exists() else ""

    def log(self) -> str:
        return super().log() + self.web_log()

    def add(self, email: str, *words: str) -> None:
        """An account that nobody has connected yet."""
        self.cli("account", "add", email, "--upstream", "lab", *words)

    def listed(self, email: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.cli("list", email, "--json"))
        return found

    def live(self, email: str) -> list[str]:
        return [one["name"] for one in self.listed(email) if one["state"] == "active"]

    def token_state(self, email: str) -> str:
        return str(json.loads(self.cli("account", "show", email, "--json"))["token"]["state"])


class PageForm(HTMLParser):
    """A form of one of our pages: where it goes, and what it would send as it stands."""

    def __init__(self, text: str, action: str) -> None:
        super().__init__()
        self.wanted, self.action, self.fields = action, "", dict[str, str]()
        self._is_inside = False
        self.feed(text)
        assert self.action, f"no form to {action} in {text}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._is_inside = values.get("action", "self").endswith(self.wanted)
            if self._is_inside:
                self.action = values.get("action", "self")
        elif tag == "input" and self._is_inside and "name" in values and values.get("type") == "hidden":
            self.fields[values["name"]] = values["value"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._is_inside = False


class Visitor:
    """A browser without scripts: keeps cookies, says where it comes from, and follows redirects on our side."""

    def __init__(self, gate: WebGate) -> None:
        self.gate, self.lab = gate, gate.lab
        context = ssl.create_default_context(cafile=str(gate.lab.ca_file))
        self.http = httpx2.Client(verify=context, timeout=TIMEOUT_S, trust_env=False, base_url=gate.web)
        self.provider = httpx2.Client(timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.provider.close()

    def get(self, path: str, **headers: str) -> httpx2.Response:
        """A page, behind redirects that stay here."""
        answer = self.http.get(path, headers=headers)
        for _ in range(5):
            where = answer.headers.get("location", "")
            if not answer.is_redirect or not urljoin(self.gate.web, where).startswith(self.gate.web):
                return answer
            answer = self.http.get(where)
        raise AssertionError("redirects do not end")

    def post(self, path: str, fields: dict[str, Any], **headers: str) -> httpx2.Response:
        return self.http.post(path, data=fields, headers={"origin": self.gate.web, **headers})

    def to_provider(self, path: str = "/sign-in") -> str:
        """The address at the provider that a link of ours leads to."""
        answer = self.get(path)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    def at_provider(self, url: str, user: str) -> str:
        """Sign in there; the address that the browser is sent back to."""
        end = walk(self.provider, self.lab, url, typed_by(self.lab, user))
        assert end.is_redirect, end.text
        return str(end.headers["location"])

    def back(self, address: str) -> httpx2.Response:
        return self.get(address.removeprefix(self.gate.web))

    def sign_in(self, user: str, path: str = "/sign-in") -> httpx2.Response:
        """The whole way in."""
        return self.back(self.at_provider(self.to_provider(path), user))

    def form(self, path: str, action: str) -> dict[str, str]:
        """The hidden fields of a form."""
        return PageForm(self.get(path).text, action).fields

    def mailbox(self) -> str:
        """The path of the only mailbox."""
        page = self.get("/")
        found = re.search(r'href="(/mailbox/\d+)/new"', page.text)
        assert found is not None, page.text
        return found[1]

    def create(self, name: str, box: str | None = None, **fields: Any) -> httpx2.Response:
        box = box or self.mailbox()
        hidden = self.form(f"{box}/new", "/new")
        return self.post(f"{box}/new", {**hidden, "name": name, "protocols": ["imap", "smtp"], "expires": "", **fields})


def shown(page: httpx2.Response) -> str:
    """The app password that a page shows, "" for none."""
    found = re.search(r'id="secret">([^<]+)<', page.text)
    return found[1] if found else ""
