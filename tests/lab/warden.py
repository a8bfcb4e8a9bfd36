"""Cleans up after a lab whose owner was killed: when its end of a pipe closes, ends the servers and removes the files.

Run as `python -P warden.py DIRECTORY` with the pipe as standard input. After an orderly stop nothing is left to do.
"""

import shutil
import signal
import sys
from pathlib import Path


def main() -> None:
    """Wait for our owner's end, then do what it should have done."""
    directory = Path(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    sys.stdin.buffer.read()
    if not directory.exists():
        return
    # Imported late: while the owner lives this process is to cost next to nothing.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tests.lab.process import end_group, start_ticks  # noqa: PLC0415

    for file in sorted(directory.glob("pids/*")):
        pid, ticks = file.read_text().split()
        # A pid is used again sooner or later; its start time tells whether it is still our server.
        if start_ticks(int(pid)) in (ticks, ""):
            end_group(int(pid))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
