"""The study's picture: each method's false sentences minus DPO's, a panel a setting; for light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WIDTH, LEFT, RIGHT = 760, 190, 30
ROW, HEAD, FOOT = 38, 46, 44
# Column of a row, class of its mark, how far below the row's middle, name in the legend.
MARKS = (
    ("t1", "one", -9, "temperature 1"),
    ("matched", "two", 0, "matched entropy"),
    ("kinds", "three", 9, "DPO's mix of kinds"),
)
LEGEND = (320, 440, 580)
STYLE = """text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:13px;fill:#465068}
.t{font-size:15px;font-weight:600;fill:#1c2333}.e{text-anchor:end}.m{text-anchor:middle}
.g{stroke:#d9deea}.z{stroke:#7a859f;stroke-width:1.5}line{stroke-width:1}
.one{stroke:#2f6fdb;fill:#2f6fdb;stroke-width:2}.two{stroke:#c8701f;fill:#c8701f;stroke-width:2}
.three{stroke:#2b8a57;fill:#2b8a57;stroke-width:2}
@media (prefers-color-scheme:dark){text{fill:#b3bbd0}.t{fill:#e8ebf5}.g{stroke:#333b50}.z{stroke:#8f9ab5}
.one{stroke:#7fb0ff;fill:#7fb0ff}.two{stroke:#f0a45c;fill:#f0a45c}.three{stroke:#6fd09c;fill:#6fd09c}}"""


def draw(settings: Mapping[str, list[dict[str, Any]]], target: Path) -> None:
    """Write the picture.

    Args:
        settings: title of each panel and its rows: `method`, and (mean, half width of its 95% interval, p)
            for each of `MARKS`; NaN where nothing is known.
        target: the file.
    """
    parts: list[str] = []
    top = 0
    for title, rows in settings.items():
        parts += _panel(title, rows, top)
        top += HEAD + ROW * len(rows) + FOOT
    names = ", ".join(settings)
    parts.append(
        f'<text class="m" x="{(LEFT + WIDTH - RIGHT) // 2}" y="{top + 6}">'
        "false sentences minus DPO, in points; lines: 95% intervals</text>"
    )
    target.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 18}" role="img" '
        f'aria-label="False sentences minus DPO, in points, with 95% intervals: {html.escape(names)}">'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n",
        encoding="utf-8",
    )


def _panel(title: str, rows: list[dict[str, Any]], top: int) -> list[str]:
    ends = [0.0]
    for row in rows:
        for mean, half, _ in (row[name] for name, *_ in MARKS):
            if not math.isnan(mean):
                half = 0.0 if math.isnan(half) else half
                ends += [mean - half, mean + half]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if (max(ends) - min(ends)) / s <= 8)
    low, high = math.floor(min(ends) / step) * step, math.ceil(max(ends) / step) * step
    high = max(high, low + step)
    first, bottom = top + HEAD, top + HEAD + ROW * len(rows)

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low), 1)

    parts = [f'<text class="t" x="8" y="{top + 22}">{html.escape(title)}</text>']
    for number, (_, kind, _, label) in enumerate(MARKS):
        across = LEGEND[number]
        parts.append(f'<circle class="{kind}" cx="{across}" cy="{top + 18}" r="4"/>')
        parts.append(f'<text x="{across + 10}" y="{top + 22}">{label}</text>')
    for value in range(low, high + 1, step):
        kind = "g" if value else "z"
        parts.append(f'<line class="{kind}" x1="{x(value)}" x2="{x(value)}" y1="{first}" y2="{bottom}"/>')
        name = f"{value:+d}" if value else "DPO"
        parts.append(f'<text class="m" x="{x(value)}" y="{bottom + 17}">{name}</text>')
    for number, row in enumerate(rows):
        middle = first + ROW * number + ROW // 2
        parts.append(f'<text class="e" x="{LEFT - 14}" y="{middle + 5}">{html.escape(row["method"])}</text>')
        for name, kind, shift, _ in MARKS:
            mean, half, _ = row[name]
            if math.isnan(mean):
                continue
            y = middle + shift
            if not math.isnan(half):
                parts.append(
                    f'<line class="{kind}" x1="{x(mean - half)}" x2="{x(mean + half)}" y1="{y}" y2="{y}"/>'
                )
            parts.append(f'<circle class="{kind}" cx="{x(mean)}" cy="{y}" r="4"/>')
    return parts
