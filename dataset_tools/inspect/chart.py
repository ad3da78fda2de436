"""The statistics as a picture: four panels, drawn with Pillow alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.errors import UsageError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1400, 1000
_COLOURS = {"chosen": (46, 125, 80), "rejected": (196, 77, 60)}
_INK, _PALE, _LINE = (35, 38, 44), (110, 115, 125), (222, 225, 230)
_MOST_SENTENCES = 15


def draw(stats: dict[str, Any], path: Path) -> None:
    """Write a PNG of what `stats.collect` returned."""
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"the picture is a PNG file: name it {path.with_suffix('.png').name}, not {path.name}."
        )
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    source = Path(stats["source"].get("location") or "").name or stats["source"]["name"]
    _text(pen, 60, 34, f"{source}: {stats['rows']:,} preference pairs", 30)
    single = f"{stats['single_sentence_share']:.1%} of chosen responses have one sentence"
    about = f"{stats['images']:,} images, {single}"
    _text(pen, 60, 76, about, 20, _PALE)
    for index, (name, colour) in enumerate(_COLOURS.items()):
        pen.rectangle((WIDTH - 320 + index * 140, 50, WIDTH - 302 + index * 140, 68), fill=colour)
        _text(pen, WIDTH - 294 + index * 140, 46, name, 20)
    _panel(pen, (60, 140), "Sentences per response", *_sentences(stats))
    _panel(pen, (740, 140), "Similarity of a sentence with its image", *_similarities(stats))
    _quantiles(pen, (60, 570), "Characters per response", stats, "characters_per_response")
    _problems(pen, (740, 570), stats)
    image.save(path)


_PANEL = (600, 330)


def _sentences(stats: dict[str, Any]) -> tuple[list[str], dict[str, list[int]]]:
    values = {}
    for name in _COLOURS:
        counts = dict(stats[name]["sentences_per_response"]["histogram"])
        row = [counts.get(number, 0) for number in range(1, _MOST_SENTENCES)]
        row.append(sum(count for number, count in counts.items() if number >= _MOST_SENTENCES))
        values[name] = row
    return [*(str(number) for number in range(1, _MOST_SENTENCES)), f"{_MOST_SENTENCES}+"], values


def _similarities(stats: dict[str, Any]) -> tuple[list[str], dict[str, list[int]]]:
    found = {
        name: dict(stats[name]["similarity"]["histogram"]) for name in _COLOURS if stats[name]["similarity"]
    }
    if not found:
        return [], {}
    edges = [edge for counts in found.values() for edge in counts]
    first, last = round(min(edges) * 50), round(max(edges) * 50)
    steps = [step / 50 for step in range(first, last + 1)]
    labels = [
        f"{step:.2f}" if index % (1 + len(steps) // 10) == 0 else "" for index, step in enumerate(steps)
    ]
    return labels, {name: [counts.get(step, 0) for step in steps] for name, counts in found.items()}


def _panel(
    pen: ImageDraw, corner: tuple[int, int], title: str, labels: list[str], values: dict[str, list[int]]
) -> None:
    """Bars side by side, one group per label."""
    left, bottom = _frame(pen, corner, title)
    most = max((max(row) for row in values.values() if row), default=0)
    if not most:
        _text(pen, left, bottom - 160, "not scored" if not values else "nothing", 22, _PALE)
        return
    height = _PANEL[1] - 80
    for share in (0.5, 1.0):
        y = bottom - height * share
        pen.line((left, y, left + _PANEL[0], y), fill=_LINE)
        _text(pen, left + _PANEL[0] + 6, y - 10, f"{round(most * share):,}", 15, _PALE)
    group = _PANEL[0] / len(labels)
    for index, label in enumerate(labels):
        for place, (name, row) in enumerate(values.items()):
            width = group * 0.8 / len(values)
            x = left + group * (index + 0.1) + place * width
            y = bottom - height * row[index] / most
            if row[index]:
                pen.rectangle((x, y, x + max(1.0, width - 1), bottom), fill=_COLOURS[name])
        _text(pen, left + group * (index + 0.5), bottom + 6, label, 15, _PALE, middle=True)


def _quantiles(pen: ImageDraw, corner: tuple[int, int], title: str, stats: dict[str, Any], key: str) -> None:
    """A line from the smallest to the 90th percentile with the median marked, per response."""
    left, bottom = _frame(pen, corner, title)
    most = max(stats[name][key]["p90"] or 0 for name in _COLOURS) or 1
    for index, (name, colour) in enumerate(_COLOURS.items()):
        values = stats[name][key]
        if values["median"] is None:
            continue
        y = bottom - 200 + index * 110
        ends = [left + _PANEL[0] * 0.9 * values[part] / most for part in ("min", "median", "p90")]
        pen.rectangle((ends[0], y - 14, max(ends[2], ends[0] + 2), y + 14), fill=colour)
        pen.rectangle((ends[1] - 2, y - 20, ends[1] + 2, y + 20), fill=_INK)
        text = f"{name}: median {values['median']:,}, 90% up to {values['p90']:,}, longest {values['max']:,}"
        _text(pen, left, y - 48, text, 17, _PALE)


def _problems(pen: ImageDraw, corner: tuple[int, int], stats: dict[str, Any]) -> None:
    left, bottom = _frame(pen, corner, "Problems")
    top = bottom - _PANEL[1] + 80
    for index, (kind, entry) in enumerate(list(stats["problems"].items())[:7]):
        y = top + index * 36
        share = entry["rows"] / max(stats["rows"], 1)
        pen.rectangle((left, y, left + max(2, _PANEL[0] * share), y + 26), fill=(238, 214, 170))
        _text(pen, left + 6, y + 3, f"{entry['rows']:,}  {kind}", 17)
    if not stats["problems"]:
        _text(pen, left, top, "none", 22, _PALE)


def _frame(pen: ImageDraw, corner: tuple[int, int], title: str) -> tuple[int, int]:
    """Title and base line of a panel; returns the lower left corner of its plot."""
    left, top = corner
    _text(pen, left, top, title, 22)
    pen.line((left, top + _PANEL[1], left + _PANEL[0], top + _PANEL[1]), fill=_PALE)
    return left, top + _PANEL[1]


def _text(
    pen: ImageDraw,
    x: float,
    y: float,
    text: str,
    size: int,
    fill: Sequence[int] = _INK,
    middle: bool = False,
) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    if middle:
        x -= pen.textlength(text, font=font) / 2
    pen.text((x, y), text, font=font, fill=tuple(fill))
