"""`python -m proxy` and the `gatepost` command."""

from __future__ import annotations

import sys

from proxy.cli import main as run


def main() -> int:
    """Run the command line's arguments; the exit status."""
    return run()


if __name__ == "__main__":
    sys.exit(main())
