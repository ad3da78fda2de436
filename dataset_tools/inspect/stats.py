"""What is in a converted dataset: counts, sentences, lengths, similarities, problems, in one pass."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import COLUMNS, RESPONSES, invariants, iter_batches, shards, text_of
from dataset_tools.errors import UsageError

BIN = 0.02
"""Width of a similarity bin; each starts at a multiple of it."""
SINGLE = "one sentence only: trains as plain DPO"
NO_SIMILARITY = "has an image, but no similarities"
PARTLY_SCORED = "some sentences have no similarity"
_EXAMPLES = 5
# The images' bytes are most of a dataset and say nothing here.
_READ = [name for name in COLUMNS if name != "images"] + ["images.list.element.path"]


def problems_of(row: dict[str, Any]) -> list[str]:
    """Kinds of problems of a row, without its numbers: broken invariants, then what weakens its training."""
    kinds = [re.sub(r"-?\d+", "N", problem.partition(":")[0]) for problem in invariants(row)]
    if len(row.get("chosen_sentences") or ()) == 1:
        kinds.append(SINGLE)
    values = row.get("chosen_similarity")
    if row.get("images") and (not values or all(value is None for value in values)):
        kinds.append(NO_SIMILARITY)
    elif values and None in values and row.get("images"):
        kinds.append(PARTLY_SCORED)
    return list(dict.fromkeys(kinds))


@dataclass
class Response:
    """Distributions over the chosen or the rejected responses; keys are values, values counts."""

    sentences: Counter[int] = field(default_factory=Counter)
    characters: Counter[int] = field(default_factory=Counter)
    sentence_characters: Counter[int] = field(default_factory=Counter)
    similarity: Counter[int] = field(default_factory=Counter)
    spread: Counter[int] = field(default_factory=Counter)
    scored: int = 0
    total: float = 0.0
    lowest: float = 1.0
    highest: float = -1.0

    def add(self, row: dict[str, Any], name: str) -> None:
        text, spans = text_of(row[name]), row[f"{name}_sentences"] or []
        self.sentences[len(spans)] += 1
        self.characters[len(text)] += 1
        self.sentence_characters.update(span["end"] - span["start"] for span in spans)
        values = [value for value in row[f"{name}_similarity"] or () if value is not None]
        self.scored += len(values)
        for value in values:
            self.similarity[_bin(value)] += 1
            self.total += value
            self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)
        if len(values) > 1:
            self.spread[_bin(max(values) - min(values))] += 1

    def as_dict(self) -> dict[str, Any]:
        """The distributions with their summaries; similarity bins as (lower edge, count)."""
        similarity = None
        if self.scored:
            similarity = {
                "scored_sentences": self.scored,
                "mean": self.total / self.scored,
                "min": self.lowest,
                "max": self.highest,
                "bin_width": BIN,
                "histogram": [[round(step * BIN, 4), n] for step, n in sorted(self.similarity.items())],
                "mean_spread_in_response": _mean(self.spread, BIN, BIN / 2),
            }
        return {
            "sentences_per_response": {
                **_summary(self.sentences),
                "histogram": sorted(self.sentences.items()),
            },
            "characters_per_response": _summary(self.characters),
            "characters_per_sentence": _summary(self.sentence_characters),
            "similarity": similarity,
        }


def _bin(value: float) -> int:
    """The bin of a similarity; the margin keeps a float32 0.3 in the bin that starts at 0.30."""
    return math.floor(value / BIN + 1e-4)


def _mean(counts: Counter[int], scale: float = 1.0, offset: float = 0.0) -> float | None:
    total = sum(counts.values())
    if not total:
        return None
    return sum(value * count for value, count in counts.items()) / total * scale + offset


def _summary(counts: Counter[int]) -> dict[str, Any]:
    """Mean, smallest, median, 90th percentile and largest; None for no values."""
    total = sum(counts.values())
    found: dict[str, Any] = {"mean": _mean(counts)}
    for name, share in (("min", 0.0), ("median", 0.5), ("p90", 0.9), ("max", 1.0)):
        seen, found[name] = 0, None
        for value in sorted(counts):
            seen += counts[value]
            if seen >= max(1, share * total):
                found[name] = value
                break
    return found


def collect(folder: Path | str, progress: Callable[[int], Any] = lambda rows: None) -> dict[str, Any]:
    """The statistics of a converted dataset, ready for JSON. Raises `UsageError` for another folder."""
    record, paths = read_record(folder), shards(folder)
    if not paths:
        raise UsageError(f"{Path(folder) / 'data'} holds no parquet files: run `aspo-data convert` again.")
    rows = 0
    images: Counter[int] = Counter()
    responses = {name: Response() for name in RESPONSES}
    problems: dict[str, dict[str, Any]] = {}
    for batch in _batches(paths):
        for row in batch:
            rows += 1
            images[len(row["images"] or ())] += 1
            kinds = problems_of(row)
            for kind in kinds:
                entry = problems.setdefault(kind, {"rows": 0, "examples": []})
                entry["rows"] += 1
                if len(entry["examples"]) < _EXAMPLES:
                    entry["examples"].append(row["id"])
            for name, response in responses.items():
                if row[name] and row[name][0]["content"] is not None:
                    response.add(row, name)
        progress(len(batch))
    chosen = responses["chosen"].sentences
    return {
        "rows": rows,
        "shards": len(paths),
        "images": sum(count * times for count, times in images.items()),
        "images_per_row": sorted(images.items()),
        "text_only_rows": images[0],
        "single_sentence_chosen": chosen[1],
        "single_sentence_share": chosen[1] / rows if rows else 0.0,
        **{name: response.as_dict() for name, response in responses.items()},
        "problems": dict(sorted(problems.items(), key=lambda item: -item[1]["rows"])),
        "source": record["source"],
        "scorer": record.get("scorer"),
    }


def _batches(paths: list[Path]) -> Iterator[list[dict[str, Any]]]:
    for path in paths:
        for batch in iter_batches(path, _READ, batch_size=256):
            yield batch.to_pylist()


def table(stats: dict[str, Any]) -> str:
    """The statistics as text for a terminal."""
    rows = stats["rows"]
    files = f"{stats['shards']:,} file{'' if stats['shards'] == 1 else 's'}"
    lines = [
        f"{rows:,} rows in {files}, {stats['images']:,} images, "
        f"{stats['text_only_rows']:,} rows without an image",
        f"{stats['single_sentence_chosen']:,} chosen responses ({stats['single_sentence_share']:.1%}) have "
        "one sentence: they train as plain DPO",
        "",
        f"{'':26}{'mean':>10}{'min':>8}{'median':>8}{'90%':>8}{'max':>8}",
    ]
    for label, key in (
        ("sentences per response", "sentences_per_response"),
        ("characters per response", "characters_per_response"),
        ("characters per sentence", "characters_per_sentence"),
    ):
        lines.append(label)
        for name in RESPONSES:
            values = stats[name][key]
            numbers = "".join(_number(values[part], 8) for part in ("min", "median", "p90", "max"))
            lines.append(f"  {name:24}{_number(values['mean'], 10, '.1f')}{numbers}")
    for name in RESPONSES:
        lines += ["", f"similarity of {name} sentences", *_similarity_lines(stats[name]["similarity"])]
    lines += ["", "problems"]
    for kind, entry in stats["problems"].items():
        lines.append(f"  {entry['rows']:>10,}  {kind}, for example {entry['examples'][0]}")
    return "\n".join(lines if stats["problems"] else [*lines, "  none"])


def _number(value: float | None, width: int, form: str = ",") -> str:
    return f"{'-' if value is None else format(value, form):>{width}}"


def _similarity_lines(similarity: dict[str, Any] | None, width: int = 40) -> list[str]:
    if not similarity:
        return ["  not scored"]
    spread = similarity["mean_spread_in_response"]
    lines = [
        f"  {similarity['scored_sentences']:,} scored, mean {similarity['mean']:.3f}, "
        f"min {similarity['min']:.3f}, max {similarity['max']:.3f}"
        + ("" if spread is None else f", mean spread within a response {spread:.3f}")
    ]
    most = max(count for _, count in similarity["histogram"])
    for edge, count in similarity["histogram"]:
        lines.append(f"  {edge:>6.2f}  {'#' * max(1, round(count / most * width)):{width}} {count:>10,}")
    return lines
