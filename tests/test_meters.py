"""The numbers: kept in memory that outlives who wrote them, added up over all, and bounded."""

from __future__ import annotations

import os
import signal
from itertools import product

import pytest

from proxy.live.exposition import Exposition
from proxy.meters import (
    ACCEPTING,
    ACCOUNTS,
    HASH_SECONDS,
    HEARTBEAT,
    LOGINS,
    METERS,
    SERIES_DROPPED,
    SESSIONS,
    STALE_S,
    Board,
    Kind,
    Meter,
    Meters,
    Sheet,
)

NOW = 1000.0


def text(board: Board, workers: int = 1, accept: str = "") -> list[str]:
    return Exposition(board, workers, clock=lambda: NOW).render(accept)[1].decode().splitlines()


def test_the_numbers_of_all_workers_are_added_up() -> None:
    board = Board()
    one, two = Meters(board.lend()), Meters(board.lend())
    one.count(LOGINS, "imap", "ok", "")
    two.count(LOGINS, "imap", "ok", "", amount=2)
    two.count(LOGINS, "smtp", "refused", "throttled")
    one.put(SESSIONS, "imap", value=3)
    two.put(SESSIONS, "imap", value=4)
    lines = text(board, 2)
    assert 'gatepost_logins_total{cause="",outcome="ok",protocol="imap"} 3.0' in lines
    assert 'gatepost_logins_total{cause="throttled",outcome="refused",protocol="smtp"} 1.0' in lines
    assert 'gatepost_sessions{protocol="imap"} 7.0' in lines


def test_a_histogram_has_cumulative_buckets_and_its_ends() -> None:
    board = Board()
    meters = Meters(board.lend())
    for seconds in (0.005, 0.006, 0.3, 100.0):
        meters.observe(HASH_SECONDS, value=seconds)
    lines = text(board)
    for le, count in (("0.005", 1), ("0.01", 2), ("0.25", 2), ("0.5", 3), ("25.0", 3), ("+Inf", 4)):
        assert f'gatepost_hash_seconds_bucket{{le="{le}"}} {count}.0' in lines
    assert "gatepost_hash_seconds_count 4.0" in lines
    assert "gatepost_hash_seconds_sum 100.311" in lines


def test_what_a_killed_process_counted_stays_and_its_successor_goes_on() -> None:
    board = Board()
    sheet = board.lend()
    for expected in (1.0, 2.0):
        pid = os.fork()
        if pid == 0:
            meters = Meters(sheet)
            meters.count(LOGINS, "imap", "ok", "")
            meters.put(SESSIONS, "imap", value=5)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        assert board.totals()[LOGINS.name, "imap", "ok", ""] == expected
    sheet.forget_gauges()
    assert (SESSIONS.name, "imap") not in board.totals()
    assert board.totals()[LOGINS.name, "imap", "ok", ""] == 2.0


def test_a_sheet_that_was_given_back_is_lent_again_with_its_counts() -> None:
    board = Board()
    sheet = board.lend()
    Meters(sheet).count(LOGINS, "imap", "ok", "")
    Meters(sheet).put(ACCOUNTS, "fresh", value=9)
    board.take_back(sheet)
    assert board.totals() == {(LOGINS.name, "imap", "ok", ""): 1.0, (SERIES_DROPPED.name,): 0.0}
    assert board.lend() is sheet
    assert board.lend() is not sheet


def test_numbers_without_room_are_dropped_and_that_is_counted() -> None:
    sheet = Sheet(memoryview(bytearray(512)))
    meters = Meters(sheet)
    for number in range(50):
        meters.count(LOGINS, f"label {number}", "ok", "")
    meters.put(SESSIONS, "imap", value=1)
    meters.count(LOGINS, "label 0", "ok", "")
    assert meters.read(LOGINS, "label 0", "ok", "") == 2
    assert meters.read(LOGINS, "label 49", "ok", "") == 0
    kept = sum(meters.read(LOGINS, f"label {number}", "ok", "") for number in range(50)) - 1
    assert meters.read(SERIES_DROPPED) == 50 - kept + 1


def test_a_hundred_upstreams_have_room() -> None:
    board = Board()
    meters = Meters(board.lend())
    wide = {"upstream": 100, "cause": 30, "fault": 8, "reason": 10, "token_state": 5}
    for meter in set(METERS) - {SERIES_DROPPED}:
        values = [[f"a-rather-long-{label}-{number}" for number in range(wide.get(label, 2))] for label in meter.labels]
        for labels in product(*values):
            if meter.kind is Kind.HISTOGRAM:
                for bound in (*meter.bounds, 1e9):
                    meters.observe(meter, *labels, value=bound)
            else:
                meters.count(meter, *labels)
    assert meters.read(SERIES_DROPPED) == 0


@pytest.mark.parametrize(("accepting", "beat", "count"), [(1, NOW, 1), (0, NOW, 0), (1, NOW - STALE_S - 1, 0)])
def test_a_worker_that_left_or_hangs_does_not_accept(accepting: int, beat: float, count: int) -> None:
    board = Board()
    board.lend()
    meters = Meters(board.lend())
    meters.put(ACCEPTING, value=accepting)
    meters.put(HEARTBEAT, value=beat)
    assert board.accepting(NOW) == count
    assert f'gatepost_workers{{is="accepting"}} {count}.0' in text(board, 3)
    assert 'gatepost_workers{is="configured"} 3.0' in text(board, 3)


def test_names_are_as_prometheus_wants_them_and_none_comes_twice() -> None:
    assert len({meter.name for meter in METERS}) == len(METERS) > 20
    for meter in METERS:
        assert meter.name.startswith("gatepost_")
        assert not meter.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert meter.words.endswith(".")


def test_the_form_is_what_the_request_accepts() -> None:
    board = Board()
    Meters(board.lend())
    exposition = Exposition(board, 1)
    assert exposition.render("text/plain")[0].startswith("text/plain")
    open_metrics = exposition.render("application/openmetrics-text; version=1.0.0")
    assert open_metrics[0].startswith("application/openmetrics-text")
    assert open_metrics[1].endswith(b"# EOF\n")


def test_a_meter_that_nobody_reads_costs_nothing_to_make() -> None:
    meters = Meters()
    meters.count(Meter("gatepost_x", Kind.COUNTER, "X."))
    assert meters.read(Meter("gatepost_x", Kind.COUNTER, "X.")) == 1
