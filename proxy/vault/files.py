"""Secret files on disk, written private from their first byte."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.secret import Secret


def write_private(path: Path, secret: Secret) -> None:
    """Write a new file that its owner alone can read (0600), through to the disk.

    raises  FileExistsError rather than touch a file that is there, OSError as the system says
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        # The umask may have taken bits away, which a service that must read its own key would not forgive.
        os.fchmod(file.fileno(), 0o600)
        file.write(secret.reveal().rstrip("\n").encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
