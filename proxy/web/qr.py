"""A QR code as SVG for the inside of a page: never a file, never at an address."""

from __future__ import annotations

import io

import segno
from markupsafe import Markup


def svg_of(text: str) -> Markup:
    """Dark on white whatever the page's colours are: cameras read no inverted codes."""
    out = io.BytesIO()
    code = segno.make(text, error="m", micro=False)
    code.save(
        out, kind="svg", scale=4, border=3, dark="#111", light="#fff", xmldecl=False, svgns=True, omitsize=True,
        svgclass="qr", lineclass=None, nl=False,
    )  # fmt: skip
    return Markup(out.getvalue().decode())  # noqa: S704 - segno's own markup; the text is in its squares alone
