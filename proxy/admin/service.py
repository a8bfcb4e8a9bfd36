"""Asks the running service to do what needs the master key's private half, when only the service can read it.

With "credential:" keys systemd shows them to the service alone. Its control socket takes one request per connection:
a JSON object in one line, and answers with another. No secret crosses it in either direction: what "unwrap" gives is
still locked by its app password.

    {"op": "check", "config": "/etc/gatepost/gatepost.toml", "login": null or "ann@example.org", "by": "cli:ann"}
    {"op": "rotate", "config": ..., "by": ...}
    {"op": "unwrap", "config": ..., "secret": 7, "by": ...}    -> {"ok": true, "locked": base64}
    -> {"ok": true, ...} or {"ok": false, "problem": "...", "remedy": "..."}

A reload is the supervisor's, which has a socket of its own: there the connection itself is the request.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from proxy.admin.finding import Finding
from proxy.admin.keys import Rotated
from proxy.config import Config
from proxy.errors import OperatorError

RUN_DIRECTORY = "/run/gatepost"
SOCKET_NAME = "control"
RELOAD_NAME = "reload"
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 1_048_576  # some hundred bytes for each finding
ASK_S = 180.0  # every step of the service has its own deadline; this is longer than all

Words = Mapping[str, object]


def socket_path(name: str = SOCKET_NAME) -> Path:
    """Where the service takes requests: in the RuntimeDirectory that its unit has."""
    return Path(os.environ.get("RUNTIME_DIRECTORY", RUN_DIRECTORY).partition(":")[0]) / name


class NoService(OperatorError):
    """No service runs that could be asked."""


def must_ask(config: Config) -> bool:
    """Whether the master key is one that only the service can read."""
    return config.keys.master.kind == "credential" and "CREDENTIALS_DIRECTORY" not in os.environ


def check(config: Config, login: str | None, by: str) -> list[Finding]:
    """`gatepost check` as the service sees it. Raises OperatorError."""
    answer = _ask({"op": "check", "config": _name(config), "login": login, "by": by})
    findings = answer.get("findings")
    if not isinstance(findings, list):
        raise _strange()
    return [_finding(one) for one in findings]


def rotate(config: Config, by: str) -> Rotated:
    """`gatepost key rotate` by the service: see admin.keys.rotate_held. Raises OperatorError."""
    answer = _ask({"op": "rotate", "config": _name(config), "by": by})
    secrets, app_keys, dropped = answer.get("secrets"), answer.get("app_keys"), answer.get("dropped")
    if not isinstance(secrets, int) or not isinstance(app_keys, int) or not isinstance(dropped, list):
        raise _strange()
    return Rotated(str(answer.get("master_key", "")), None, True, secrets, app_keys, tuple(map(str, dropped)))


def unwrap(config: Config, secret_id: int, by: str) -> bytes:
    """The app key of one secret row without the master's lock; see vault.sealed.locked_of. Raises OperatorError."""
    locked = _ask({"op": "unwrap", "config": _name(config), "secret": secret_id, "by": by}).get("locked")
    try:
        return base64.b64decode(locked if isinstance(locked, str) else "", validate=True)
    except ValueError:
        raise _strange() from None


def reload() -> str:
    """Have the service here read its configuration again; returns the file's name when that has taken effect.

    raises  OperatorError: it was refused, with the reason and its remedy, or nobody listens
    """
    return str(_ask(None, RELOAD_NAME).get("config", ""))


def _name(config: Config) -> str:
    return str(config.path.resolve())


def _ask(request: Words | None, name: str = SOCKET_NAME) -> Words:
    path = socket_path(name)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(ASK_S)
            sock.connect(str(path))
            if request is not None:
                sock.sendall(json.dumps(request).encode() + b"\n")
            sock.shutdown(socket.SHUT_WR)
            answer = _read(sock)
    except PermissionError:
        raise OperatorError(
            f"{path} is not open to this user", "run it as root, or as a member of the service's group"
        ) from None
    except (BrokenPipeError, ConnectionResetError):
        raise _turned_away() from None
    except TimeoutError:
        raise OperatorError("the service does not answer", "look at its log: journalctl -u gatepost") from None
    except OSError:
        why = "" if request is None else "the master key is a systemd credential, and "
        raise NoService(f"{why}no service listens at {path}", "systemctl start gatepost") from None
    if answer.get("ok") is not True:
        raise OperatorError(str(answer.get("problem", "the service refused")), str(answer.get("remedy", "see its log")))
    return answer


def _read(sock: socket.socket) -> Words:
    data = b""
    while chunk := sock.recv(65_536):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise _strange()
    if not data:
        raise _turned_away()
    try:
        answer = json.loads(data)
    except ValueError:
        raise _strange() from None
    if not isinstance(answer, dict):
        raise _strange()
    return answer


def _finding(one: object) -> Finding:
    if not isinstance(one, dict):
        raise _strange()
    return Finding(
        str(one.get("name", "")), ok=one.get("ok") is True, detail=str(one.get("detail", "")),
        remedy=str(one.get("remedy", "")),
    )  # fmt: skip


def _turned_away() -> OperatorError:
    return OperatorError(
        "the service closed the connection", "run it as root, or as a member of the service's group; see its log"
    )


def _strange() -> OperatorError:
    return OperatorError(
        "the service answered in words of another version", "systemctl restart gatepost after an upgrade"
    )
