"""What tests need of the machine. Programs that `make lab` installs are there or the test fails and says so."""

from __future__ import annotations

import shutil


def needs(program: str, package: str = "") -> str:
    """The program's name, to begin a command with. `package` is Debian's, where it has another name."""
    assert shutil.which(program), f"{program} is missing: run make lab, or apt-get install {package or program}"
    return program
