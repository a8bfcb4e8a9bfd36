"""`gatepost reload` says what became of it: its exit status is what systemd's reload job shows."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.admin.service import RELOAD_NAME, RUN_DIRECTORY
from tests.edge.scripted import Certificates
from tests.whole.kit import House, mail_server, write_config


@pytest.fixture
def served(
    house: House, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[House]:
    """With a RuntimeDirectory, as its unit has one."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    with mail_server(certificates, "imap", lambda line: line.rest()) as imap:
        write_config(house, certificates, imap=imap.port)
        house.start()
        yield house


def test_a_reload_is_done_when_the_command_ends(served: House) -> None:
    served.config.write_text(served.config.read_text().replace('level = "debug"', 'level = "info"'))
    assert served.cli("reload") == f"Reloaded {served.config}.\n"
    assert "event=reloaded generation=2" in served.log()
    assert served.run("reload", "--json").json == {"reloaded": str(served.config)}  # nothing has changed
    assert served.stop() == 0
    assert "ResourceWarning" not in served.log()


def test_a_refused_reload_is_a_failure_with_its_reason(served: House) -> None:
    session = served.imap_session()
    served.config.write_text(served.config.read_text() + "[nonsense]\n")
    refused = served.run("reload")
    assert refused.code == 1
    assert "nonsense" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert served.log().count("event=reload_refused") == 1
    session.close()
    served.imap_session().close()  # the old one lives on


def test_workers_that_do_not_start_are_a_failure_too(served: House) -> None:
    """The new configuration is valid, and its listener can't be bound."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = served.config.read_text().replace('address = "127.0.0.1:0"', f'address = "127.0.0.1:{port}"', 1)
        served.config.write_text(text)
        refused = served.run("reload")
    assert refused.code == 1
    assert "cannot listen" in refused.err


def test_who_asks_while_one_is_under_way_hears_of_the_next(served: House) -> None:
    for level in ("info", "warning", "info"):
        served.config.write_text(served.config.read_text().replace('level = "debug"', f'level = "{level}"'))
    done: list[int] = []
    askers = [threading.Thread(target=lambda: done.append(served.run("reload").code)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert done == [0, 0, 0, 0]


def test_a_service_that_ends_says_so(served: House) -> None:
    """The workers are stopped, so that the end takes as long as the test needs."""
    session = served.imap_session()
    assert served.process is not None
    worker = served.pid()
    os.kill(worker, signal.SIGSTOP)
    served.process.send_signal(signal.SIGTERM)
    try:
        refused = served.run("reload")
    finally:
        os.kill(worker, signal.SIGCONT)
    assert refused.code == 1
    assert "the service is ending" in refused.err
    session.close()
    assert served.process.wait(30) == 0


def test_without_a_service_the_command_says_so(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    refused = house.run("reload")
    assert refused.code == 1
    assert f"no service listens at {tmp_path / RELOAD_NAME}" in refused.err
    monkeypatch.delenv("RUNTIME_DIRECTORY")
    assert RUN_DIRECTORY in house.run("reload").err


def test_only_root_and_the_service_s_group_may_ask(served: House, tmp_path: Path) -> None:
    assert (tmp_path / "run" / RELOAD_NAME).stat().st_mode & 0o777 == 0o660
