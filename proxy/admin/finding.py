"""What one step of `gatepost check` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A remedy beside `ok` makes it a warning: it works, and somebody should look.

    name    what was looked at: "certificate", "upstream office imap"
    detail  what is there or what went wrong; printable, never a secret
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    @property
    def verdict(self) -> Literal["ok", "warning", "failed"]:
        if not self.ok:
            return "failed"
        return "warning" if self.remedy else "ok"
