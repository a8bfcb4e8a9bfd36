"""Who runs this command: recorded with what it makes."""

from __future__ import annotations

import os
import pwd


def who() -> str:
    """For example "cli:ann"; under sudo the person behind it. A note for people, not a proof."""
    name = os.environ.get("SUDO_USER", "")
    if not name:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container's user without a name
            name = str(os.getuid())
    return f"cli:{name[:64]}" if name.isprintable() else "cli:unknown"
