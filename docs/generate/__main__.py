"""Write the generated pages, and say which have changed."""

from __future__ import annotations

from docs.generate.pages import ROOT, pages

for name, text in pages().items():
    file = ROOT / name
    if not file.exists() or file.read_text() != text:
        file.write_text(text)
        print(f"written: {name}")  # noqa: T201 - it is a tool for developers
