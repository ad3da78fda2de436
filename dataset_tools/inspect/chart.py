"""The statistics as a picture of four panels, as SVG or PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataset_tools.dataset.schema import RESPONSES
from dataset_tools.errors import UsageError
from dataset_tools.inspect.canvas import Canvas, Ink, Png, Svg

WIDTH, HEIGHT = 1400, 1000
FORMATS: dict[str, Callable[[int, int, str], Canvas]] = {".svg": Svg, ".png": Png}
_MOST_SENTENCES = 20
_PLOT = (560, 280)
"""Width and height of a panel's plot."""


class Axis(NamedTuple):
    """Values from `low` to `high` along an edge of a plot, with ticks at `ticks`."""

    low: float
    high: float
    ticks: list[float]
    title: str

    def share(self, value: float) -> float:
        """Where `value` lies, from 0 at the axis's start to 1 at its end."""
        return (value - self.low) / (self.high - self.low)


def check_format(path: Path) -> None:
    """Raises `UsageError` where the file's name asks for another format than SVG or PNG."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(
            f"the picture is an SVG or a PNG file: name it {path.with_suffix('.svg').name} or "
            f"{path.with_suffix('.png').name}, not {path.name}."
        )


def draw(stats: dict[str, Any], path: Path) -> None:
    """Write a picture of what `stats.collect` returned; its name ends in .svg or .png."""
    check_format(path)
    source = Path(stats["source"].get("location") or "").name or stats["source"]["name"]
    title = f"{source}: {stats['rows']:,} preference pairs"
    canvas = FORMATS[path.suffix.lower()](WIDTH, HEIGHT, title)
    canvas.text(60, 44, title, 28)
    single = f"{stats['single_sentence_share']:.1%} of chosen responses have one sentence"
    canvas.text(60, 80, f"{stats['images']:,} images, {single}", 18, "pale")
    for index, name in enumerate(RESPONSES):
        canvas.bar(WIDTH - 320 + index * 130, 36, 18, 18, _ink(name))
        canvas.text(WIDTH - 294 + index * 130, 45, name, 18)
    _histogram(canvas, (110, 160), "Sentences per response", "sentences", "responses", *_sentences(stats))
    _histogram(
        canvas,
        (790, 160),
        "Similarity of a sentence with its image",
        "cosine",
        "sentences",
        *_bins(stats, "histogram"),
    )
    _lengths(canvas, (110, 610), stats)
    if stats["problems"] or not any(stats[name]["similarity"] for name in RESPONSES):
        _problems(canvas, (790, 610), stats)
    else:
        _histogram(
            canvas, (790, 610), "Spread of the similarities in a response", "highest minus lowest cosine",
            "responses", *_bins(stats, "spread_histogram"),
        )  # fmt: skip
    canvas.save(path)


def _ink(name: str) -> Ink:
    return "chosen" if name == "chosen" else "rejected"


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    span = max(high - low, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= about)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _sentences(stats: dict[str, Any]) -> tuple[float, dict[str, list[tuple[float, int]]]]:
    """Counts by number of sentences; the last bar holds all longer responses."""
    found: dict[str, list[tuple[float, int]]] = {}
    for name in RESPONSES:
        counts: dict[float, int] = {}
        for number, count in stats[name]["sentences_per_response"]["histogram"]:
            place = min(number, _MOST_SENTENCES) - 0.5
            counts[place] = counts.get(place, 0) + count
        found[name] = sorted(counts.items())
    return 1.0, found


def _bins(stats: dict[str, Any], key: str) -> tuple[float, dict[str, list[tuple[float, int]]]]:
    scored = {name: stats[name]["similarity"] for name in RESPONSES if stats[name]["similarity"]}
    width = next((similarity["bin_width"] for similarity in scored.values()), 1.0)
    return width, {name: [tuple(bin) for bin in similarity[key]] for name, similarity in scored.items()}


def _histogram(
    canvas: Canvas,
    corner: tuple[int, int],
    title: str,
    across: str,
    up: str,
    width: float,
    values: dict[str, list[tuple[float, int]]],
) -> None:
    """Bars of (lower edge, count), side by side for each response; the empty range at both ends is cut."""
    canvas.text(corner[0], corner[1] - 26, title, 20)
    edges = [edge for bins in values.values() for edge, count in bins if count]
    if not edges:
        message = "nothing to show" if values else "not scored: run aspo-data score"
        canvas.text(corner[0], corner[1] + 60, message, 18, "pale")
        return
    low, high = min(edges), max(edges) + width
    most = max(count for bins in values.values() for _, count in bins)
    marks = ticks(low, high)
    if width == 1.0:
        marks = [mark for mark in marks if mark == int(mark)]
    x = Axis(low, high, marks, across)
    y = Axis(0, most, [mark for mark in ticks(0, most, 5) if mark == int(mark)], up)
    last = f"{_MOST_SENTENCES}+" if width == 1.0 and high > _MOST_SENTENCES else None
    _axes(canvas, corner, x, y, lambda mark: last if last and mark == _MOST_SENTENCES else _label(mark))
    group = _PLOT[0] * width / (high - low)
    thick = group * 0.86 / len(values)
    for place, (name, bins) in enumerate(values.items()):
        for edge, count in bins:
            tall = max(_PLOT[1] * count / most, 1.0) if count else 0.0
            left = corner[0] + _PLOT[0] * x.share(edge) + group * 0.07 + place * thick
            canvas.bar(left, corner[1] + _PLOT[1] - tall, max(thick - 1, 1), tall, _ink(name))


def _label(mark: float) -> str:
    return f"{mark:,.0f}" if mark == int(mark) else f"{mark:.10g}"


def _axes(
    canvas: Canvas, corner: tuple[int, int], x: Axis, y: Axis | None, label: Callable[[float], str] = _label
) -> None:
    left, top = corner
    bottom = top + _PLOT[1]
    for mark in y.ticks if y else ():
        height = bottom - _PLOT[1] * y.share(mark) if y else bottom
        canvas.rule(left, height, left + _PLOT[0], height, "line")
        canvas.text(left - 8, height, _label(mark), 14, "pale", "end")
    canvas.rule(left, bottom, left + _PLOT[0], bottom, "pale")
    for mark in x.ticks:
        place = left + _PLOT[0] * x.share(mark)
        canvas.rule(place, bottom, place, bottom + 5, "pale")
        canvas.text(place, bottom + 16, label(mark), 14, "pale", "middle")
    canvas.text(left + _PLOT[0] / 2, bottom + 40, x.title, 15, "pale", "middle")
    if y:
        canvas.text(left - 72, top + _PLOT[1] / 2, y.title, 15, "pale", "middle", turned=True)


def _lengths(canvas: Canvas, corner: tuple[int, int], stats: dict[str, Any]) -> None:
    """From the shortest to the 90th percentile, with the median marked."""
    canvas.text(corner[0], corner[1] - 26, "Length: shortest, median, and 90% up to", 20)
    rows = [
        (what, key, name)
        for what, key in (("response", "characters_per_response"), ("sentence", "characters_per_sentence"))
        for name in RESPONSES
    ]
    most = max(stats[name][key]["p90"] or 0 for _, key, name in rows) or 1
    x = Axis(0, most, ticks(0, most), "characters")
    _axes(canvas, corner, x, None)
    for index, (what, key, name) in enumerate(rows):
        values = stats[name][key]
        middle = corner[1] + 42 + index * 66
        if values["median"] is None:
            continue
        numbers = f"median {values['median']:,}, 90% up to {values['p90']:,}, longest {values['max']:,}"
        canvas.text(corner[0], middle - 24, f"{name} {what}: {numbers}", 14, "pale")
        low, median, high = (
            corner[0] + _PLOT[0] * x.share(values[part]) for part in ("min", "median", "p90")
        )
        canvas.bar(low, middle - 10, max(high - low, 2), 20, _ink(name))
        canvas.bar(median - 2, middle - 14, 4, 28, "ink")


def _problems(canvas: Canvas, corner: tuple[int, int], stats: dict[str, Any]) -> None:
    left, top = corner
    canvas.text(left, top - 26, "Problems", 20)
    if not stats["problems"]:
        canvas.text(left, top + 60, "none", 18, "pale")
        return
    shown: Sequence[tuple[str, Any]] = list(stats["problems"].items())[:6]
    largest = max(entry["rows"] for _, entry in shown) / max(stats["rows"], 1) * 100
    x = Axis(0, largest, ticks(0, largest), "% of the rows")
    _axes(canvas, corner, x, None)
    for index, (kind, entry) in enumerate(shown):
        y = top + 4 + index * 46
        share = entry["rows"] / max(stats["rows"], 1) * 100
        canvas.bar(left, y + 20, max(2.0, _PLOT[0] * x.share(share)), 16, "problem")
        canvas.text(left, y + 9, f"{entry['rows']:,}  {kind}", 15)
