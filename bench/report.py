"""Our section of bench/RESULTS.md, its plots, and our own figures by commit, from what a run found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.plots import bars
from bench.results import put_section

HERE = Path(__file__).parent
HISTORY = HERE / "history.json"
OURS, TLS_PEER, PLAIN_PEER, FLOOR = "gatepost", "dovecot", "nginx", "floor"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of the tables. `target` is issue 7's bound in the same unit, or of the ratio to a peer."""

    title: str
    digits: int = 2
    target: str = ""


METRICS = {
    "login_cpu_ms": Metric("login + logout, warm, 64 at once: CPU ms", 2, "<= 3.0 and <= 1.2 x dovecot"),
    "logins_per_s": Metric("logins/s, 64 at once", 0, ">= 0.8 x dovecot"),
    "fetch1_cpu_s_gb": Metric("fetch of 20 MB messages, 1 stream: CPU s/GB", 2, "<= 2.1"),
    "fetch1_mb_s": Metric("the same: MB/s", 0),
    "fetch8_cpu_s_gb": Metric("fetch, 8 streams: CPU s/GB", 2, "<= 2.1"),
    "fetch8_mb_s": Metric("the same: MB/s", 0, ">= 0.8 x nginx"),
    "noop_cpu_ms": Metric("NOOP: CPU ms", 3, "<= 0.10"),
    "noop_us": Metric("NOOP: round trip, us", 0),
    "mail_cpu_ms": Metric("4 KB mail on an open session: CPU ms", 2, "<= 0.40 (0.30)"),
    "connected_mail_cpu_ms": Metric("connection + AUTH + 4 KB mail: CPU ms", 2, "<= 4.0 (3.5)"),
    "bulk_cpu_s_gb": Metric("10 MB mails: CPU s/GB", 2, "<= 2.1"),
    "bulk_mb_s": Metric("the same: MB/s", 0),
    "idle_kb": Metric("idle session that moved 1 MB: KB (PSS)", 0, "<= 60 (40)"),
    "idle_sessions": Metric("idle sessions, all alive at the end", 0),
    "none_cpu_ms_s": Metric("no session at all: CPU ms per second", 1),
    "idle_cpu_ms_s": Metric("all of them idle: CPU ms per second", 1, "as with none"),
    "login_alone_cpu_ms": Metric("login, 16 at once, no idle sessions: CPU ms", 2),
    "login_beside_cpu_ms": Metric("login beside the idle sessions: CPU ms", 2, "as alone"),
    "storm_answered": Metric("1,000 clients at once: answered", 0, "1000"),
    "storm_s": Metric("1,000 clients at once: seconds to the last", 1),
}
OWN = {
    "cold_cpu_ms": Metric("cold login: CPU ms", 1, "warm + one argon2 verify"),
    "worker_rss_mb": Metric("idle worker, just started: RSS MB", 1, "<= 60"),
    "worker_used_rss_mb": Metric("idle worker after 64 logins: RSS MB", 1, "<= 60"),
    "supervisor_rss_mb": Metric("its supervisor, just started: RSS MB", 1),
    "worker_pss_mb": Metric("all its processes: PSS MB", 1),
    "create_s": Metric("gatepost create: seconds", 2, "< 0.4"),
    "create_cpu_s": Metric("the same: CPU seconds", 2),
    "list_s": Metric("gatepost list: seconds", 2, "< 0.4"),
    "list_cpu_s": Metric("the same: CPU seconds", 2),
    "import_s": Metric("the import of SQLAlchemy alone, in turns with both: seconds", 2),
    "import_cpu_s": Metric("the same: CPU seconds", 2),
}
INTRODUCTION = """\
Written by `make bench` or `make bench-short`. Medians of interleaved runs, in brackets the range. CPU is
user and system time of all processes of a proxy. The last column is the bound for Gatepost. Figures of one run stand
beside each other: another machine, or a busier one, has others.
"""
NOT_DONE = """\
What the peers did not do. **nginx** and **dovecot** check no password (nginx asks an HTTP server of ours that lets
all in, whose CPU is not counted; Dovecot has `nopassword=y`), know no app passwords, renew no token and log in
upstream with the client's own password. **nginx** has no TLS upstream: one TLS leg where all others have two. For
each login on TLS **nginx** may wait about 45 ms (Nagle against delayed ACK), which shows at low concurrency only.
**email-oauth2-proxy** does what Gatepost does for tokens, but for one owner: what opens its tokens is the password
itself, by PBKDF2 at each login, on the thread that serves everybody; so it got shorter bursts, of 16 clients at once
where others had 64, 50 idle sessions, and no storm. **direct** is no proxy: load generator and upstream alone, and so
the ceiling of every throughput. **floor** is no product: `bench/floor.py`, our transport and loop with nothing of
Gatepost above them. It checks nobody, looks nothing up, writes nothing down, and so is the least that our way costs.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """All that a run found: samples by target and key, Gatepost's own figures, those by size of the store."""

    conditions: dict[str, str]
    samples: dict[str, dict[str, list[float]]]
    own: dict[str, float]
    growth: dict[str, dict[str, float]]
    versions: dict[str, str] = field(default_factory=dict)

    def value(self, target: str, key: str) -> float | None:
        values = self.samples.get(target, {}).get(key)
        return median(values) if values else None


def write(run: Run) -> None:
    """Write the sections of what was measured, and for a comparison its plots and its line of the history."""
    if run.own:
        put_section("alone", f"## Gatepost alone\n\n{_conditions(run)}\n\n{_own(run)}")
    if run.growth and run.conditions["form"].startswith("long"):  # a short form's sizes say little
        put_section("growth", f"## By size of the store\n\n{_conditions(run)}\n\n{_growth(run)}")
    if not run.samples:
        return
    history: list[dict[str, Any]] = json.loads(HISTORY.read_text()) if HISTORY.exists() else []
    history.append(_line(run))
    HISTORY.write_text(json.dumps(history, indent=1) + "\n")
    _plot(run)
    parts = [
        "## Gatepost beside its peers",
        INTRODUCTION,
        _conditions(run),
        _table(run),
        "### As ratios\n\n" + _ratios(run),
        "![CPU per login](plots/login.svg) ![CPU per GB](plots/relay.svg) ![memory](plots/idle.svg)",
        NOT_DONE,
        "### Our own figures by commit\n\n" + _history(history),
    ]
    put_section("proxies", "\n\n".join(part.strip() for part in parts))


def _conditions(run: Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    named = {**run.conditions, **({"versions": versions} if versions else {})}
    return "\n".join(f"- {name}: {value}" for name, value in named.items())


def tables(run: Run) -> str:
    """The figures of a run that is not to be kept."""
    return "\n\n".join((_table(run), _ratios(run), _own(run), _growth(run)))


def _line(run: Run) -> dict[str, Any]:
    keys = ("commit", "date", "form", "load average")
    values = {key: run.value(OURS, key) for key in METRICS}
    beside = {f"{key} / {peer}": _ratio(run, key, peer) for key, peer in RATIOS}
    figures = {**values, **beside, **run.own}
    return {
        **{key: run.conditions[key] for key in keys},
        "figures": {key: round(value, 4) for key, value in figures.items() if value is not None},
    }


def _table(run: Run) -> str:
    targets = list(run.samples)
    lines = [f"| | {' | '.join(targets)} | bound |", "| --- |" + " --- |" * (len(targets) + 1)]
    for key, metric in METRICS.items():
        cells = [_cell(run.samples[target].get(key), metric) for target in targets]
        if any(cells):
            lines.append(f"| {metric.title} | {' | '.join(cells)} | {metric.target} |")
    return "\n".join(lines)


def _cell(values: list[float] | None, metric: Metric) -> str:
    if not values:
        return ""
    text = f"**{median(values):,.{metric.digits}f}**"
    if len(values) > 1:
        text += f" ({min(values):,.{metric.digits}f}-{max(values):,.{metric.digits}f})"
    return text


RATIOS = (
    ("login_cpu_ms", TLS_PEER),
    ("login_cpu_ms", FLOOR),
    ("logins_per_s", TLS_PEER),
    ("fetch1_cpu_s_gb", PLAIN_PEER),
    ("fetch8_cpu_s_gb", PLAIN_PEER),
    ("fetch8_cpu_s_gb", TLS_PEER),
    ("fetch8_cpu_s_gb", FLOOR),
    ("fetch8_mb_s", PLAIN_PEER),
    ("noop_cpu_ms", PLAIN_PEER),
    ("noop_cpu_ms", TLS_PEER),
    ("noop_cpu_ms", FLOOR),
    ("mail_cpu_ms", TLS_PEER),
    ("mail_cpu_ms", FLOOR),
    ("connected_mail_cpu_ms", TLS_PEER),
    ("connected_mail_cpu_ms", FLOOR),
    ("bulk_cpu_s_gb", PLAIN_PEER),
    ("bulk_cpu_s_gb", FLOOR),
    ("idle_kb", TLS_PEER),
    ("idle_kb", FLOOR),
)


def _ratio(run: Run, key: str, peer: str) -> float | None:
    ours, theirs = run.value(OURS, key), run.value(peer, key)
    return ours / theirs if ours is not None and theirs else None


def _ratios(run: Run) -> str:
    lines = ["| figure | peer | gatepost / peer |", "| --- | --- | --- |"]
    for key, peer in RATIOS:
        ratio = _ratio(run, key, peer)
        if ratio is not None:
            lines.append(f"| {METRICS[key].title} | {peer} | {ratio:.2f} |")
    return "\n".join(lines)


def _own(run: Run) -> str:
    lines = ["| | measured | bound |", "| --- | --- | --- |"]
    lines += [
        f"| {metric.title} | {run.own[key]:.{metric.digits}f} | {metric.target} |"
        for key, metric in OWN.items()
        if key in run.own
    ]
    return "\n".join(lines)


def _growth(run: Run) -> str:
    lines = ["| store | warm login, CPU ms | idle session, KB | worker RSS, MB |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {name} | {found['login_cpu_ms']:.2f} ({found['login_least']:.2f}-{found['login_most']:.2f}) "
        f"| {found['idle_kb']:.0f} | {found['rss_mb']:.0f} |"
        for name, found in run.growth.items()
    ]
    return "\n".join(lines)


SHOWN = ("login_cpu_ms", "login_cpu_ms / dovecot", "fetch1_cpu_s_gb", "fetch8_cpu_s_gb", "noop_cpu_ms", "mail_cpu_ms",
         "connected_mail_cpu_ms", "bulk_cpu_s_gb", "idle_kb", "worker_rss_mb", "create_s", "list_s")  # fmt: skip


def _history(history: list[dict[str, Any]]) -> str:
    lines = [
        f"| commit | date | form | load | {' | '.join(key.replace('_', ' ') for key in SHOWN)} |",
        "| --- |" + " --- |" * (len(SHOWN) + 3),
    ]
    for line in history:
        cells = [f"{line['figures'][key]:.3g}" if key in line["figures"] else "" for key in SHOWN]
        head = (line["commit"], line["date"], line["form"], line["load average"])
        lines.append(f"| {' | '.join(head)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(run: Run) -> None:
    directory = HERE / "plots"
    directory.mkdir(exist_ok=True)
    proxies = [name for name in run.samples if name != "direct"]

    def rows(key: str) -> list[tuple[str, float]]:
        return [(name, value) for name in proxies if (value := run.value(name, key)) is not None]

    (directory / "login.svg").write_text(bars("login + logout, CPU ms", rows("login_cpu_ms"), OURS, bound=3.0))
    (directory / "relay.svg").write_text(bars("fetch, 8 streams, CPU s/GB", rows("fetch8_cpu_s_gb"), OURS, bound=2.1))
    (directory / "idle.svg").write_text(bars("idle session, KB", rows("idle_kb"), OURS, bound=60))
