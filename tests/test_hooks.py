"""How alerts leave: a real command and a real HTTP server; slow, broken and hostile ones of both."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.config import AlertsConfig
from proxy.record.hooks import Hooks
from tests.service.house import LogBook, until

pytest_plugins = ("tests.service.plugin",)
ALERT = json.dumps({"event": "token_state", "account": "ann@x.test", "state": "needs_consent"}).encode() + b"\n"
PLACE = "/hook/secret-0f1e2d"


@dataclass
class Webhook:
    url: str = ""
    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    is_silent: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line)
        self.requests.append((head, await reader.readexactly(length)))
        if self.is_silent:
            await reader.read()
        else:
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    hook = Webhook()
    server = await asyncio.start_server(hook.serve, "127.0.0.1", 0)
    hook.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PLACE}"
    yield hook
    server.close()
    await server.wait_closed()


def script(directory: Path, text: str) -> tuple[str, ...]:
    file = directory / "hook.py"
    file.write_text(text)
    return (sys.executable, "-I", str(file), str(directory))


READS = """
import os, pathlib, sys
target = pathlib.Path(sys.argv[1])
(target / "alert").write_bytes(sys.stdin.buffer.read())
(target / "environment").write_text(" ".join(sorted(os.environ)))
"""


async def test_the_command_gets_the_alert_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEPOST_MASTER", "a secret")
    assert await Hooks(AlertsConfig(command=script(tmp_path, READS))).deliver(ALERT)
    assert (tmp_path / "alert").read_bytes() == ALERT
    assert set((tmp_path / "environment").read_text().split()) <= {"PATH", "HOME", "LANG", "TZ", "LC_CTYPE"}


async def test_the_webhook_gets_the_alert_by_post(webhook: Webhook) -> None:
    assert await Hooks(AlertsConfig(webhook=webhook.url)).deliver(ALERT)
    ((head, body),) = webhook.requests
    assert head.startswith(f"POST {PLACE} HTTP/1.1\r\n")
    assert "content-type: application/json" in head.lower()
    assert body == ALERT


async def test_without_hooks_everything_is_told() -> None:
    assert await Hooks(AlertsConfig()).deliver(ALERT)


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)"])
async def test_a_command_that_fails_took_nothing(tmp_path: Path, text: str, book: LogBook) -> None:
    assert not await Hooks(AlertsConfig(command=script(tmp_path, text))).deliver(ALERT)
    assert len([one for one in book.texts if "event=alert_failed by=command status=" in one]) == 1


async def test_a_command_that_does_not_read_its_input_may_still_succeed(tmp_path: Path) -> None:
    assert await Hooks(AlertsConfig(command=script(tmp_path, "pass"))).deliver(ALERT * 10_000)


@pytest.mark.parametrize("command", ["/nowhere/at-all", "/etc/passwd"])
async def test_a_command_that_does_not_run_is_logged(command: str, book: LogBook) -> None:
    assert not await Hooks(AlertsConfig(command=(command,))).deliver(ALERT)
    assert any("event=alert_failed by=command error=" in one for one in book.texts)


HANGS = """
import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-I", "-c", "import time; time.sleep(600)"])
(pathlib.Path(sys.argv[1]) / "children.new").write_text(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + "/children.new", sys.argv[1] + "/children")
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_a_command_that_hangs_is_killed_with_its_children(tmp_path: Path, book: LogBook) -> None:
    started = tmp_path / "children"
    hooks = Hooks(AlertsConfig(command=script(tmp_path, HANGS)), command_s=5.0)
    delivery = asyncio.create_task(hooks.deliver(ALERT))
    await until(started.exists)
    # Also when the server ends before the deadline.
    delivery.cancel()
    await asyncio.wait([delivery])
    pids = [int(word) for word in started.read_text().split()]
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_a_command_that_is_too_slow_took_nothing(tmp_path: Path, book: LogBook) -> None:
    assert not await Hooks(AlertsConfig(command=script(tmp_path, HANGS)), command_s=0.05).deliver(ALERT)
    assert any("still running after 0.05 s" in one for one in book.texts)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"not http at all\r\n",
        b"",
    ],
)
async def test_a_webhook_that_does_not_take_it_is_logged_without_its_address(
    webhook: Webhook, answer: bytes, book: LogBook
) -> None:
    webhook.answer = answer
    assert not await Hooks(AlertsConfig(webhook=webhook.url)).deliver(ALERT)
    assert len(webhook.requests) == 1
    (line,) = [one for one in book.texts if "event=alert_failed" in one]
    assert PLACE not in line


async def test_a_webhook_that_says_nothing_is_given_up(webhook: Webhook, book: LogBook) -> None:
    webhook.is_silent = True
    assert not await Hooks(AlertsConfig(webhook=webhook.url), webhook_s=0.1).deliver(ALERT)


async def test_one_of_two_hooks_is_enough(webhook: Webhook, tmp_path: Path, book: LogBook) -> None:
    config = AlertsConfig(command=script(tmp_path, "raise SystemExit(1)"), webhook=webhook.url)
    assert await Hooks(config).deliver(ALERT)
    assert any("event=alert_failed by=command status=1" in one for one in book.texts)
