"""What a proxy costs: CPU and memory of a process and everything below it, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """The living processes at and below `root`: a server's workers are its children, or theirs."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").iterdir():  # glob looks at what it found, and raises if that is gone
        fields = _fields(directory / "stat") if directory.name.isdigit() else None
        if fields is not None:
            children.setdefault(int(fields[1]), []).append(int(directory.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def cpu_s(root: int) -> float:
    """User and system time of the tree since its start, with that of children which have ended, in steps of a tick."""
    ticks = 0
    for pid in tree(root):
        fields = _fields(Path(f"/proc/{pid}/stat"))
        if fields is not None:
            ticks += sum(int(value) for value in fields[11:15])  # utime, stime, and both of reaped children
    return ticks * TICK_S


def pss_kb(root: int) -> int:
    """Proportional set size of the tree: pages that processes share count once."""
    return sum(pss_kb_of(pid) for pid in tree(root))


def pss_kb_of(pid: int) -> int:
    """Proportional set size of one process; 0 if it is gone."""
    return _kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")


def private_kb(pid: int) -> int:
    """What only this process has: it would be free again if it ended. 0 if it is gone."""
    file = Path(f"/proc/{pid}/smaps_rollup")
    return _kb(file, "Private_Dirty:") + _kb(file, "Private_Clean:")


def rss_kb_of(pid: int) -> int:
    """Resident size of one process; 0 if it is gone."""
    return _kb(Path(f"/proc/{pid}/status"), "VmRSS:")


def rss_kb(root: int) -> list[int]:
    """Resident size of each process, the largest first."""
    return sorted((rss_kb_of(pid) for pid in tree(root)), reverse=True)


def _kb(file: Path, key: str) -> int:
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key)), 0)


def _fields(stat: Path) -> list[str] | None:
    """The fields of /proc/PID/stat from the third, the state, on; None if the process is gone."""
    try:
        # The second, the command's name, may hold spaces and parentheses.
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return None
