"""Log lines on their way out: to a reader who is stuck, gone, or the journal."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from proxy import journald
from proxy.journald import MAX_FIELDS, MAX_MESSAGE_BYTES, Journal, entry
from proxy.live.observing import Observer
from proxy.logs import JsonFormat, Line, TextFormat
from proxy.meters import LINES_LOST, Meters
from proxy.outlet import Outlet, Stderr, journalling

TEXT = TextFormat(is_journal=False)
ROOM = 20_000
F_SETPIPE_SZ = 1031  # fcntl.h; Python 3.11 has it on Linux only
PAGE = 4096


def record(line: Line | str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("gatepost.test", level, __file__, 0, "%s", (line,), None)


class Reader:
    """The other end of a pipe or a socket of a process's standard error."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.ours, self.theirs = os.pipe()
            fcntl.fcntl(self.theirs, F_SETPIPE_SZ, PAGE)
        else:
            pair = socket.socketpair()
            pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAGE)
            self.ours, self.theirs = (end.detach() for end in pair)

    def lines(self) -> list[str]:
        """All until the end."""
        os.close(self.theirs)
        with os.fdopen(self.ours) as file:
            self.ours = -1
            return file.read().splitlines()

    def close(self) -> None:
        for descriptor in (self.ours, self.theirs):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture(params=["pipe", "socket"])
def reader(request: pytest.FixtureRequest) -> Reader:
    return Reader(request.param)


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_reader_who_is_stuck_costs_lines_and_never_a_wait(reader: Reader, *, has_thread: bool) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=has_thread, room=ROOM)
    count = 2000
    for number in range(count):  # a write that waited would never come back: nobody reads
        outlet.handle(record(Line("one", number=number)))
    assert 0 < outlet.lost < count
    lost = outlet.lost
    text = ""
    while sum(map(int, re.findall(r"event=log_lines_lost lines=(\d+)\n", text))) < lost:
        text += os.read(reader.ours, 65_536).decode()
        outlet.drain()
    arrived = [line for line in text.splitlines() if "event=one" in line]
    assert len(arrived) == count - lost
    numbers = [int(line.rpartition("=")[2]) for line in arrived]
    assert numbers == sorted(numbers)
    outlet.handle(record(Line("after")))
    outlet.close()
    assert "event=after" in reader.lines()[-1]


def test_a_line_for_which_there_is_room_is_written_before_the_call_returns(reader: Reader) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=True)
    os.set_blocking(reader.ours, False)
    for number in range(50):
        outlet.emit(record(Line("here", number=number)))
        assert os.read(reader.ours, PAGE).endswith(b"number=%d\n" % number)
    outlet.close()
    reader.close()


def test_lines_keep_their_order_when_some_must_wait(reader: Reader) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=True)
    for number in range(300):  # more than fits
        outlet.emit(record(Line("here", number=number)))
    with os.fdopen(os.dup(reader.ours)) as file:
        told = [int(next(file).rpartition("=")[2]) for _ in range(300)]
    assert told == list(range(300))
    outlet.close()
    reader.close()


def test_at_the_end_what_waits_is_written(reader: Reader) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=True)
    for number in range(10):
        outlet.handle(record(Line("one", number=number)))
    outlet.close()
    assert len(reader.lines()) == 10


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_reader_who_stays_stuck_does_not_keep_the_process(
    reader: Reader, monkeypatch: pytest.MonkeyPatch, *, has_thread: bool
) -> None:
    monkeypatch.setattr("proxy.outlet.FLUSH_S", 0.1)
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=has_thread, room=ROOM)
    for number in range(1000):
        outlet.handle(record(Line("one", number=number)))
    outlet.close()
    assert outlet.lost
    os.close(reader.ours)  # lets the thread go
    reader.ours = -1
    if outlet._writer is not None:
        outlet._writer.join()
    reader.close()


def test_a_reader_who_is_gone_is_counted(reader: Reader) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=False)
    os.close(reader.ours)
    reader.ours = -1
    for _ in range(3):
        outlet.handle(record(Line("one")))
    outlet.drain()
    assert outlet.lost == 3
    outlet.close()
    reader.close()


def test_a_fork_writes_nothing_of_its_parent_s(reader: Reader) -> None:
    outlet = Outlet(Stderr(TEXT, reader.theirs), has_thread=False)
    outlet.handle(record(Line("before")))
    if (child := os.fork()) == 0:
        outlet.handle(record(Line("in_the_child")))
        outlet.close()
        os._exit(0)
    os.waitpid(child, 0)
    outlet.handle(record(Line("after")))
    outlet.close()
    assert [line.rpartition("event=")[2] for line in reader.lines()] == ["before", "after"]


def test_what_is_lost_is_a_number_for_prometheus() -> None:
    meters, lost = Meters(), [0]
    observer = Observer(
        meters=meters, registry=[], connections=lambda: 0, store=None, pool=None, is_first=False,
        lines_lost=lambda: lost[0],
    )  # type: ignore[arg-type]  # fmt: skip
    for total in (0, 3, 3, 10):
        lost[0] = total
        observer.look()
        assert meters.read(LINES_LOST) == total


# -- the journal -----------------------------------------------------------------------------------------------------


def fields_of(data: bytes) -> dict[str, str]:
    """Read an entry as the journal does."""
    found = {}
    while data:
        head, _, rest = data.partition(b"\n")
        name, is_plain, value = head.partition(b"=")
        if is_plain:
            data = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + length], rest[8 + length + 1 :]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


def test_an_entry_has_a_field_for_each_value() -> None:
    line = Line("login", user="ann@x.test", result="ok", ms=41, is_new=True, cause=None, id="6d1f0c2a9be3")
    assert fields_of(entry(record(line, logging.WARNING), TEXT)) == {
        "MESSAGE": str(line), "PRIORITY": "4", "SYSLOG_IDENTIFIER": "gatepost", "GATEPOST_EVENT": "login",
        "GATEPOST_USER": "ann@x.test", "GATEPOST_RESULT": "ok", "GATEPOST_MS": "41", "GATEPOST_IS_NEW": "true",
        "GATEPOST_SESSION": "6d1f0c2a9be3",
    }  # fmt: skip


def test_the_message_may_be_json() -> None:
    message = fields_of(entry(record(Line("login", ms=41)), JsonFormat()))["MESSAGE"]
    assert json.loads(message)["ms"] == 41


def test_no_value_makes_a_field_of_its_own() -> None:
    data = entry(record(Line("login", user="x\nPRIORITY=0\nGATEPOST_RESULT=ok")), TEXT)
    assert fields_of(data)["PRIORITY"] == "6"
    assert "GATEPOST_RESULT" not in fields_of(data)


def test_fields_and_message_are_bounded() -> None:
    line = Line("many", **{f"n{number}": "x" * 5000 for number in range(100)})
    found = fields_of(entry(record(line), TEXT))
    assert len(found) == 3 + MAX_FIELDS
    assert len(found["MESSAGE"]) == MAX_MESSAGE_BYTES
    assert len(found["GATEPOST_N0"]) == 1024


def test_the_journal_takes_what_a_process_says(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        outlet = Outlet(Journal(TEXT, str(tmp_path / "socket")), has_thread=True)
        outlet.handle(record(Line("login", id="6d1f")))
        outlet.close()
        assert fields_of(journal.recv(65_536))["GATEPOST_SESSION"] == "6d1f"


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_journal_that_is_stuck_or_gone_costs_lines_and_never_a_wait(tmp_path: Path, *, has_thread: bool) -> None:
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        outlet = Outlet(Journal(TEXT, address), has_thread=has_thread, room=ROOM)
        for _ in range(1000):
            outlet.handle(record(Line("one")))
        assert outlet.lost
        while "log_lines_lost" not in fields_of(journal.recv(65_536))["MESSAGE"]:
            outlet.drain()
    outlet.close()
    Path(address).unlink()
    gone = Outlet(Journal(TEXT, address), has_thread=False)
    gone.handle(record(Line("one")))
    assert gone.lost == 1
    gone.close()


def test_the_journal_is_spoken_to_only_by_who_has_its_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        monkeypatch.setattr(journald, "ADDRESS", str(tmp_path / "socket"))
        found = os.fstat(2)
        mine = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert journalling(mine) == "native"
        assert journalling({"JOURNAL_STREAM": "8:1"}) == "stderr"  # of a service that started us
        assert journalling({}) == "no"
    (tmp_path / "socket").unlink()
    assert journalling(mine) == "stderr"
