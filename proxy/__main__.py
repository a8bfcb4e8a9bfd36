"""`python -m proxy` and the `gatepost` command."""

from __future__ import annotations

import gc
import sys

YOUNG_OBJECTS = 200_000  # CPython's own is 700; what a command imports are some 85,000, which all stay


def main() -> int:
    """Run the command line's arguments; the exit status."""
    gc.set_threshold(YOUNG_OBJECTS)
    from proxy.cli import main as run  # noqa: PLC0415 - a dozen collections before the threshold

    try:
        return run()
    finally:
        # The interpreter looks for garbage once more at its end: a good part of what a short command takes.
        gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
