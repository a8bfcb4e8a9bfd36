"""`make fuzz`: each target in turn, in a process of its own, for its share of the time; figures at the end.

Guided by coverage where atheris is installed. Elsewhere the corpus and the target's words are mixed by lot, and only
what breaks something is kept. New inputs are kept in .fuzz/TARGET, which a later run begins with; `--minimise` brings
those that reach something new into the corpus of the tree.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from tests.fuzz.reach import lines, reached
from tests.fuzz.targets import CORPUS, TARGETS, corpus, load

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".fuzz"
FIGURES = KEPT / "figures.json"
GRACE_S = 120  # importing under instrumentation, reading the corpus, one slow input
MAX_INPUT_BYTES = 2_048  # \xfe makes longer streams of it
_FINAL = re.compile(r"stat::number_of_executed_units: (\d+)")
_PULSE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")


def main() -> int:
    options = _options()
    if options.child:
        _fuzz(options.child, options.seconds)
    if options.minimise:
        for name in options.target:
            _minimise(name)
        return 0
    share_s = max(1, options.seconds // len(options.target))
    failed = [name for name in options.target if not _run(name, share_s)]
    print(_table(options.target))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3600, help="for all targets together")
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--minimise", action="store_true", help="bring what was found into the tree's corpus")
    parser.add_argument("--child", choices=TARGETS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.target = options.target or list(TARGETS)
    return options


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a child and keep its figures; False if it found something."""
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{name}: {seconds} s", flush=True)
    begin = time.monotonic()
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--child", name, "--seconds", str(seconds)],
        cwd=ROOT, check=False, capture_output=True, text=True, errors="replace", timeout=seconds + GRACE_S,
    )  # fmt: skip
    took_s = time.monotonic() - begin
    final, pulses = _FINAL.search(child.stderr), _PULSE.findall(child.stderr)
    figures = {
        "executions": int(final[1]) if final else 0,
        "seconds": round(took_s),
        "edges": int(pulses[-1][0]) if pulses else 0,
        "features": int(pulses[-1][1]) if pulses else 0,
        "inputs": len(list(folder.iterdir())),
        "reached": reached(name, [*corpus(name), *(file.read_bytes() for file in folder.iterdir())]),
        "guided": bool(pulses),
        "found": child.returncode != 0,
    }
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(known | {name: figures}, indent=1))
    if child.returncode:
        print(child.stdout[-2_000:], child.stderr[-6_000:], sep="\n", flush=True)
    return child.returncode == 0


def _table(names: list[str]) -> str:
    known = json.loads(FIGURES.read_text())
    rows = [
        "| target | runs | seconds | edges | features | inputs kept | lines reached | broken at the end |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in names:
        of = known[name]
        rows.append(
            f"| `{name}` | {of['executions']:,} | {of['seconds']} | {of['edges']} | {of['features']} "
            f"| {of['inputs']} | {of['reached']} | {'yes' if of['found'] else 'nothing'} |"
        )
    return "\n".join(rows)


# -- the child ---------------------------------------------------------------------------------------------------------


def _fuzz(name: str, seconds: int) -> NoReturn:
    if find_spec("atheris") is None:
        print("atheris is not installed: without guidance", file=sys.stderr)
        _mutate(name, seconds)
    import atheris  # noqa: PLC0415  # an extra of this run

    dictionary = KEPT / f"{name}.dict"
    with atheris.instrument_imports(include=["proxy", "aiosmtpd", "aioimaplib"]):
        target = load(name)
    words = ["".join(f"\\x{octet:02x}" for octet in word) for word in target.TOKENS]
    dictionary.write_text("".join(f'"{word}"\n' for word in words))
    atheris.Setup(
        [
            "fuzz", f"-max_total_time={seconds}", f"-max_len={MAX_INPUT_BYTES}", "-print_final_stats=1", "-timeout=60",
            f"-dict={dictionary}", f"-artifact_prefix={KEPT}/{name}-", "-rss_limit_mb=2048", str(KEPT / name),
            str(CORPUS / name),
        ],
        target.one,
    )  # fmt: skip
    atheris.Fuzz()
    raise SystemExit(0)


def _mutate(name: str, seconds: int) -> NoReturn:
    """Without atheris: pieces of the corpus and words, put together by lot. What breaks something is kept."""
    target, seeds, dice = load(name), corpus(name), random.Random()
    end, executions = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(1, 8)):
            at = dice.randrange(len(data) + 1)
            until = min(len(data), at + dice.choice((0, 0, 1, 4)))
            other = dice.choice(seeds)
            data[at:until] = dice.choice(
                (dice.choice(target.TOKENS), dice.randbytes(1), other[dice.randrange(len(other) + 1) :])
            )
        executions += 1
        try:
            target.one(bytes(data[:MAX_INPUT_BYTES]))
        except BaseException:
            (KEPT / f"{name}-broken").write_bytes(data[:MAX_INPUT_BYTES])
            raise
    print(f"stat::number_of_executed_units: {executions}", file=sys.stderr)
    raise SystemExit(0)


def _minimise(name: str) -> None:
    """Add to the tree's corpus what reaches lines of ours that it does not, the smallest inputs first."""
    files = sorted((KEPT / name).iterdir(), key=lambda file: file.stat().st_size)
    known, added = lines(name, corpus(name)), 0
    for file in files:
        data = file.read_bytes()
        new = lines(name, [data]) - known
        if new:
            known, added = known | new, added + 1
            (CORPUS / name / f"found-{file.name[:10]}").write_bytes(data)
    print(f"{name}: {added} of {len(files)} added; {len(known)} lines reached")


if __name__ == "__main__":
    raise SystemExit(main())
