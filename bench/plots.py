"""Bar charts as SVG, by hand: a plotting library would be the heaviest thing here."""

from __future__ import annotations

from html import escape

WIDTH, BAR, GAP, LEFT, TOP = 420, 22, 8, 150, 40
CUT = 8.0  # a bar longer than so many times the shortest but one is cut and says so
OURS_COLOUR, THEIRS_COLOUR, BOUND_COLOUR = "#1f6feb", "#9aa4b2", "#d1242f"
FONT = 'font-family="sans-serif" font-size="12"'
DASHED = f'stroke="{BOUND_COLOUR}" stroke-dasharray="4 3"'


def bars(title: str, rows: list[tuple[str, float]], ours: str, *, bound: float) -> str:
    """One bar for each (name, value); a line at `bound`; a bar far beyond the others is cut.

    returns an SVG document
    """
    values = sorted(value for _, value in rows)
    longest = min(values[-1], CUT * max(bound, values[len(values) // 2])) if values else bound
    scale = (WIDTH - LEFT - 60) / max(longest, bound)
    height = TOP + len(rows) * (BAR + GAP) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {FONT}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="20" font-size="14">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(rows):
        y = TOP + number * (BAR + GAP)
        length = min(value, longest) * scale
        colour = OURS_COLOUR if name == ours else THEIRS_COLOUR
        cut = " (cut)" if value > longest else ""
        parts += [
            f'<text x="{LEFT - 6}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<text x="{LEFT + length + 4:.1f}" y="{y + 15}">{value:.3g}{cut}</text>',
        ]
    x = LEFT + bound * scale
    parts += [
        f'<line x1="{x:.1f}" y1="{TOP - 6}" x2="{x:.1f}" y2="{height - 20}" {DASHED}/>',
        f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle" fill="{BOUND_COLOUR}">bound {bound:g}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
