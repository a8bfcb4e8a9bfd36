"""`python -m proxy` and the `gatepost` command."""

from __future__ import annotations

import gc
import sys

from proxy.cli import main as run

YOUNG_OBJECTS = 50_000  # CPython's own is 700, and what a command imports are some 50,000 that stay


def main() -> int:
    """Run the command line's arguments; the exit status."""
    gc.set_threshold(YOUNG_OBJECTS)
    try:
        return run()
    finally:
        # The interpreter looks for garbage once more at its end: a good part of what a short command takes.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
