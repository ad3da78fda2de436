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
        text, spans = text_of(row[name]), [span for span in row[f"{name}_sentences"] or [] if is_whole(span)]
        self.sentences[len(spans)] += 1
        self.characters[len(text)] += 1
        self.sentence_characters.update(span["end"] - span["start"] for span in spans)
        # A cosine, or a problem: no histogram can hold what else a float may be.
        values = [value for value in row[f"{name}_similarity"] or () if is_cosine(value)]
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
                "spread_histogram": [[round(step * BIN, 4), n] for step, n in sorted(self.spread.items())],
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


def is_whole(span: dict[str, Any] | None) -> bool:
    """Whether a sentence has both its ends."""
    return span is not None and span["start"] is not None and span["end"] is not None


def is_cosine(value: float | None) -> bool:
    """Whether a similarity is a number that a cosine may be."""
    return value is not None and abs(value) <= 1.0001


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
                if row[name] and row[name][0] and row[name][0]["content"] is not None:
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


def table(stats: dict[str, Any], width: int = 100) -> str:
    """The statistics as plain text of at most that width."""
    import io

    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False)
    for part in _parts(stats):
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def _parts(stats: dict[str, Any]) -> list[Any]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    files = f"{stats['shards']:,} file{'' if stats['shards'] == 1 else 's'}"
    parts: list[Any] = [
        Text(
            f"{stats['rows']:,} rows in {files}, {stats['images']:,} images, "
            f"{stats['text_only_rows']:,} rows without an image\n"
            f"{stats['single_sentence_chosen']:,} chosen responses ({stats['single_sentence_share']:.1%}) "
            "have one sentence: they train as plain DPO"
        )
    ]
    numbers = _table("", "", *((part, "right") for part in ("mean", "min", "median", "90%", "max")))
    for label, key in (
        ("sentences per response", "sentences_per_response"),
        ("characters per response", "characters_per_response"),
        ("characters per sentence", "characters_per_sentence"),
    ):
        for name in RESPONSES:
            values = stats[name][key]
            cells = [_number(values[part]) for part in ("min", "median", "p90", "max")]
            numbers.add_row(
                label if name == RESPONSES[0] else "", name, _number(values["mean"], ".1f"), *cells
            )
    parts.append(numbers)
    for name in RESPONSES:
        parts += [
            Text(f"\nsimilarity of {name} sentences", "bold"),
            *_similarities(stats[name]["similarity"]),
        ]
    parts.append(Text("\nproblems", "bold"))
    if not stats["problems"]:
        return [*parts, "  none"]
    problems = Table(box=None, show_header=False)
    for kind, entry in stats["problems"].items():
        # An id may be a number as well, so it says what it is.
        example = Text.assemble(("such as id ", "dim"), repr(entry["examples"][0]))
        problems.add_row(f"{entry['rows']:,}", Text(kind), example)
    return [*parts, Padding(problems, (0, 0, 0, 1))]


def _table(*columns: str | tuple[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        if isinstance(column, tuple):
            made.add_column(column[0], justify=column[1])
        else:
            made.add_column(column)
    return made


def _number(value: float | None, form: str = ",") -> str:
    return "-" if value is None else format(value, form)


def _similarities(similarity: dict[str, Any] | None) -> list[Any]:
    if not similarity:
        return ["  not scored"]
    spread = similarity["mean_spread_in_response"]
    about = (
        f"  {similarity['scored_sentences']:,} scored, mean {similarity['mean']:.3f}, "
        f"min {similarity['min']:.3f}, max {similarity['max']:.3f}"
        + ("" if spread is None else f", mean spread within a response {spread:.3f}")
    )
    bars = _table(("from", "right"), "", ("sentences", "right"))
    counts = {round(edge / BIN): count for edge, count in similarity["histogram"]}
    most = max(counts.values())
    for step in range(min(counts), max(counts) + 1):
        count = counts.get(step, 0)
        bar = "█" * max(round(count / most * 40), bool(count))
        bars.add_row(f"{step * BIN:.2f}", bar.ljust(40), f"{count:,}")
    return [about, bars]
