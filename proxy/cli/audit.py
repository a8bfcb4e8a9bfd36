"""`gatepost audit`: who did what, and who was refused why; for people, and as JSON for programs.

All of it goes out page by page as it is read, so that a million entries take no more memory than a hundred.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from proxy.admin import audit
from proxy.admin.desk import opened
from proxy.cli.output import GAP, Json, day_and_time, fit, moment, plain, say, shrink, width_of
from proxy.cli.person import who
from proxy.config.reader import load
from proxy.store.audit_rows import CLIENT, Entry

AT_ONCE = 500  # entries that are printed together
MAX_COLUMN = 32  # cells: a guesser's login name must not push all else off the screen
MIN_STORY = 40  # cells beside the other columns, below which the story gets lines of its own
_HEADINGS = ("AT", "EVENT", "ACCOUNT", "BY")
_STORY = "WHAT"


def run(arguments: argparse.Namespace, config: Path) -> int:
    with opened(load(config), who()) as desk:
        found = audit.entries(desk, arguments.account, arguments.since, arguments.events)
        if arguments.jsonl:
            for page in _pages(found):
                say("\n".join(_line(entry) for entry in page))
        elif arguments.json:
            _print_document(found)
        else:
            _print_table(found)
    return 0


def _pages(found: Iterator[Entry]) -> Iterator[list[Entry]]:
    while page := list(islice(found, AT_ONCE)):
        yield page


def _print_document(found: Iterator[Entry]) -> None:
    """One JSON list, an entry a line, without having it all in memory."""
    before = "["
    for page in _pages(found):
        say(before + "\n" + ",\n".join(_line(entry) for entry in page))
        before = ","
    say("]" if before == "," else "[]")


def _line(entry: Entry) -> str:
    import json  # noqa: PLC0415 - only with --json and --jsonl

    return json.dumps(_record(entry))


def _record(entry: Entry) -> Json:
    return {
        "at": moment(entry.at),
        "event": entry.event.value,
        "actor": entry.actor,
        "node": entry.node or None,
        "worker": entry.worker,
        "account": entry.account or None,
        "app_password": entry.app_password or None,
        "name": entry.name or None,
        "protocol": entry.protocol or None,
        "address": entry.address or None,
        "cause": entry.cause or None,
        "detail": entry.detail or None,
        "count": entry.count,
        "until": moment(entry.until),
    }


def _print_table(found: Iterator[Entry]) -> None:
    """When, what, whose, by whom; then the story, which is wrapped where the terminal is narrow and never cut."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    widths = [width_of(heading) for heading in _HEADINGS]
    is_first = True
    for page in _pages(found):
        rows = [(_facts(entry), plain(_story(entry))) for entry in page]
        for column in range(len(widths)):
            # Only ever wider: what is printed already can't be moved.
            widest = max(width_of(facts[column]) for facts, _ in rows)
            widths[column] = max(widths[column], min(widest, MAX_COLUMN))
        if is_first:
            rows.insert(0, (_HEADINGS, _STORY))
        say("\n".join(_lines(facts, story, widths, width) for facts, story in rows))
        is_first = False
    if is_first:
        say("No entries.")


def _lines(facts: tuple[str, ...], story: str, widths: list[int], width: int | None) -> str:
    """One entry; where there is no terminal, on one line whatever its length."""
    if width is None:
        columns = [fit(fact, max(width_of(fact), wanted)) for fact, wanted in zip(facts, widths, strict=True)]
        return GAP.join([*columns, story]).rstrip()
    fitting = list(widths)
    shrink(fitting, width - len(GAP) * (len(widths) - 1))
    left = GAP.join(fit(fact, wanted) for fact, wanted in zip(facts, fitting, strict=True))
    indent, room = width_of(left) + len(GAP), width - width_of(left) - len(GAP)
    if room >= MIN_STORY:
        first, *rest = textwrap.wrap(story, room, break_on_hyphens=False) or [""]
        return "\n".join([(left + GAP + first).rstrip(), *(" " * indent + line for line in rest)])
    indent = fitting[0] + len(GAP)
    lines = textwrap.wrap(story, max(width - indent, MIN_STORY), break_on_hyphens=False)
    return "\n".join([left.rstrip(), *(" " * indent + line for line in lines)])


def _facts(entry: Entry) -> tuple[str, str, str, str]:
    return day_and_time(entry.at, ""), entry.event.value, plain(entry.account), plain(_by(entry))


def _by(entry: Entry) -> str:
    """A client's address; of everybody else the name, and the machine or the browser that it was done with."""
    if entry.actor == CLIENT:
        return entry.address
    if entry.address:
        return f"{entry.actor} from {entry.address}"
    return f"{entry.actor} on {entry.node}" if entry.node else entry.actor


def _story(entry: Entry) -> str:
    parts = [entry.cause.replace("_", " "), entry.protocol]
    if entry.app_password:
        parts.append(f'"{entry.name}" {entry.app_password}')
    parts.append(entry.detail)
    if entry.count > 1:
        parts.append(f"{entry.count} times until {day_and_time(entry.until, '')}")
    return ", ".join(part for part in parts if part)
