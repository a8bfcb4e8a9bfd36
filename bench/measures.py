"""What is measured: each function loads one target once and gives figures by their key in METRICS."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.driver import Burst, Target, burst, generator
from bench.processes import pss_kb

BIG, MEDIUM = 1, 2  # messages in every mailbox: 20 MB, and 1 MB
BIG_BYTES, MEDIUM_BYTES = 20_000_000, 1_000_000
MAIL_BYTES, BULK_BYTES = 4096, 10_000_000
IDLE_WATCH_S = 10.0
BESIDE = 128  # logins beside idle sessions

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Form:
    """How much of everything: the long form for figures to keep, the short one to judge a change by."""

    name: str
    rounds: int
    logins_each: int  # of 64 clients
    noops: int
    mails: int
    connected_each: int  # of 8 clients
    fetches: int  # of 20 MB, by one client; half as many by each of 8
    bulk: int  # of 10 MB
    idle: int
    storm: int
    accounts: tuple[tuple[int, int], ...]  # of a filled store: accounts, app passwords
    has_postgresql: bool


SHORT = Form("short", 3, 8, 3000, 500, 50, 8, 10, 300, 1000, ((10, 100), (1_000, 10_000)), False)
LONG = Form("long", 5, 8, 6000, 1000, 50, 8, 8, 5000, 1000, ((10, 100), (100_000, 1_000_000)), True)


def logins(target: Target, form: Form) -> Figures:
    each = form.logins_each if target.pace == 1 else 1
    # "64 at once" would be 64 x its own time for a proxy that does one after the other.
    at_once = 64 if target.pace == 1 else 16
    did = burst(target, kind="logins", at_once=at_once, each=each)
    return {"login_cpu_ms": did.cpu_ms, "logins_per_s": did.items / did.seconds, **_failures(did, "logins")}


def fetches(target: Target, form: Form) -> Figures:
    one = burst(target, kind="fetches", at_once=1, each=form.fetches, message=BIG)
    eight = burst(target, kind="fetches", at_once=8, each=max(1, form.fetches // 4), message=BIG)
    return {
        "fetch1_cpu_s_gb": one.cpu_s_per_gb,
        "fetch1_mb_s": one.mb_per_s,
        "fetch8_cpu_s_gb": eight.cpu_s_per_gb,
        "fetch8_mb_s": eight.mb_per_s,
        "fetch8_load_share": eight.load_cpu_s / eight.seconds,
        **_failures(eight, "fetches"),
    }


def noops(target: Target, form: Form) -> Figures:
    did = burst(target, kind="noops", at_once=1, each=form.noops)
    return {"noop_cpu_ms": did.cpu_ms, "noop_us": 1e6 * did.seconds / max(1, did.items)}


def mails(target: Target, form: Form) -> Figures:
    did = burst(target, kind="mails", at_once=1, each=form.mails, size=MAIL_BYTES)
    return {"mail_cpu_ms": did.cpu_ms, **_failures(did, "mails")}


def connected_mails(target: Target, form: Form) -> Figures:
    each = form.connected_each if target.pace == 1 else 2
    did = burst(target, kind="connected_mails", at_once=8, each=each, size=MAIL_BYTES)
    return {"connected_mail_cpu_ms": did.cpu_ms, **_failures(did, "connected mails")}


def bulk(target: Target, form: Form) -> Figures:
    did = burst(target, kind="mails", at_once=1, each=form.bulk, size=BULK_BYTES)
    return {"bulk_cpu_s_gb": did.cpu_s_per_gb, "bulk_mb_s": did.mb_per_s, **_failures(did, "bulk mails")}


def storm(target: Target, form: Form) -> Figures:
    """All at once, of eight addresses; one login each."""
    if target.pace < 1:
        return {}
    did = burst(target, kind="logins", at_once=form.storm, each=1)
    return {
        "storm_answered": did.items,
        "storm_s": did.seconds,
        "storm_cpu_ms": did.cpu_ms,
        **_failures(did, "storm"),
    }


def idle(target: Target, form: Form) -> Figures:
    """Sessions that moved 1 MB each and now do nothing; then logins beside them. *direct* has nothing to measure."""
    if target.pid is None:
        return {}
    count = max(30, int(form.idle * target.pace)) if target.pace == 1 else 50
    at_once = 16 if target.pace == 1 else 4
    none_s = idling_s(target)
    alone = burst(target, kind="logins", at_once=at_once, each=BESIDE // at_once if target.pace == 1 else 1)
    before = pss_kb(target.pid)
    with generator(target, kind="idle", at_once=count, message=MEDIUM) as sessions:
        time.sleep(1)
        held = pss_kb(target.pid) - before
        idle_s = idling_s(target)
        beside = burst(target, kind="logins", at_once=at_once, each=BESIDE // at_once if target.pace == 1 else 1)
        alive = sessions.work().items
    return {
        "idle_sessions": alive,
        "idle_kb": held / count,
        "none_cpu_ms_s": 1000 * none_s / IDLE_WATCH_S,
        "idle_cpu_ms_s": 1000 * idle_s / IDLE_WATCH_S,
        "login_alone_cpu_ms": alone.cpu_ms,
        "login_beside_cpu_ms": beside.cpu_ms,
    }


def idling_s(target: Target) -> float:
    """CPU seconds that it uses in IDLE_WATCH_S while nobody asks for anything."""
    before_s = target.cpu_s()
    time.sleep(IDLE_WATCH_S)
    return target.cpu_s() - before_s


def _failures(did: Burst, what: str) -> Figures:
    if did.failed:
        print(f"    {did.failed} {what} failed, the first: {did.first_error}", flush=True)
    return {"failures": did.failed}


def of_nobody(figures: Figures) -> Figures:
    """Without what *direct* cannot have: there is no proxy whose CPU it would be."""
    return {key: value for key, value in figures.items() if "cpu" not in key}


Measure = Callable[[Target, Form], Figures]
MEASURES: dict[str, Measure] = {
    "logins": logins,
    "fetches": fetches,
    "noops": noops,
    "mails": mails,
    "connected_mails": connected_mails,
    "bulk": bulk,
}
ONCE: dict[str, Measure] = {"storm": storm, "idle": idle}
