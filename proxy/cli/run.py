"""Runs one command and turns what went wrong into an exit status and one line on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from proxy.cli.arguments import DEFAULT_CONFIG, UsageError, parser
from proxy.cli.output import complain
from proxy.errors import OperatorError, StoreUnavailable, UpstreamError

DONE, REFUSED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's). The exit status: 0 done, 1 refused, 2 wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A name must not crash a listing because the terminal lacks a letter of it.
            stream.reconfigure(errors="backslashreplace")
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = parser(words[0] if words else "").parse_args(words)
    except SystemExit as end:  # --help, --version, or wrong usage with its line printed
        return end.code if isinstance(end.code, int) else WRONG_USAGE
    try:
        return _run(arguments)
    except UsageError as error:
        complain(str(error))
        return WRONG_USAGE
    except OperatorError as error:
        complain(str(error))
    except StoreUnavailable as error:
        complain(f"the store does not answer: {error}; {error.remedy}")
    except UpstreamError as error:
        complain(f"the upstream did not let Gatepost in: {error}; run gatepost check")
    except BrokenPipeError:  # nobody reads any more (`gatepost list | head -1`), so nobody is told
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    return REFUSED


def _run(arguments: argparse.Namespace) -> int:
    # Each area is imported when it is used: SQLAlchemy or asyncio cost more than most commands.
    area = import_module(f"proxy.cli.{_AREAS[arguments.area]}")
    run: Callable[[argparse.Namespace, Path], int] = area.run
    return run(arguments, config_path(arguments.config))


# The module of each area of proxy/cli/arguments.py.
_AREAS = {
    "setup": "setup",
    "account": "accounts",
    "connect": "connecting",
    "grant": "grants",
    "create": "creating",
    "password": "passwords",
    "life": "life",
    "sessions": "sessions",
    "audit": "audit",
    "key": "keys",
    "backup": "backup",
    "completion": "completion",
}


def config_path(given: str | None) -> Path:
    """--config, else GATEPOST_CONFIG, else the default."""
    return Path(given or os.environ.get("GATEPOST_CONFIG") or DEFAULT_CONFIG)
