"""The part of `convert` that runs in the worker processes: rows to pairs, pairs to sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.gate import refuses, rows_of_chunk
from dataset_tools.dataset.schema import RESPONSES, arrow_schema, default_markers, invariants
from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources import source_class
from dataset_tools.sources.base import Options, Pair, Source
from dataset_tools.sources.images import ImageValue, looks_like_image, other_media
from dataset_tools.sources.markers import with_markers

REPEATED = "its id repeats, so that its picture may be another row's"
"""Why rows of `repeated` are left out; `--keep-repeated-ids` keeps them."""


@dataclass
class NotUsed:
    """A row, or one pair of a row, that cannot be used or is left out."""

    row: int
    id: str
    reason: str


@dataclass
class Annotated:
    """The pairs of a chunk; `rows` and `images` have one item per pair: its row in the chunk, its images."""

    batch: bytes
    rows: list[int]
    images: list[list[ImageValue]]
    rejected: list[NotUsed]
    skipped: list[NotUsed]
    """Pairs that the source's recipe leaves out, and rows whose id repeats."""

    def table(self) -> pa.Table:
        """The columns of the dataset, all but the images."""
        return pa.ipc.open_stream(self.batch).read_all()


@dataclass
class Annotate:
    """Turns a chunk into its annotated pairs; a value, so that it travels to other processes.

    `number_rows`: make ids of the rows' positions also where the source has ids. `origin`: what the rows'
    `source` says. `repeated`: the values of the column that names a row's picture (`Source.pictures_by`)
    that several rows share; their rows are left out, or with `keep_repeated` numbered.
    """

    source: str
    options: Options
    number_rows: bool = False
    origin: str = ""
    repeated: frozenset[str] = frozenset()
    keep_repeated: bool = False

    def __call__(self, chunk: Chunk) -> Annotated:
        source = source_class(self.source)(self.options)
        found: list[dict[str, Any]] = []
        rows: list[int] = []
        images: list[list[ImageValue]] = []
        rejected: list[NotUsed] = []
        skipped: list[NotUsed] = []
        file = PurePosixPath(chunk.file.removesuffix(".gz")).with_suffix("")
        for offset, row in enumerate(rows_of_chunk(chunk)):
            position = f"{file}-{chunk.place(offset)}"
            if isinstance(row, BadRow):
                rejected.append(NotUsed(offset, position, str(row)))
                continue
            repeats = bool(self.repeated) and str(row.get(source.pictures_by or "")) in self.repeated
            if repeats and not self.keep_repeated:
                skipped.append(NotUsed(offset, self._row_id(row, position), REPEATED))
                continue
            try:
                pairs, left_out = self._pairs(source, row)
            except BadRow as error:
                named = self._row_id(row, position)
                rejected.append(
                    NotUsed(offset, position if self.number_rows or repeats else named, str(error))
                )
                continue
            skipped += [NotUsed(offset, self._row_id(row, position), reason) for reason in left_out]
            for index, pair in enumerate(pairs):
                name = pair.id if pair.id and not self.number_rows and not repeats else position
                if name == position and len(pairs) > 1:
                    name = f"{position}-{index}"
                try:
                    found.append(annotated(source, pair, name, row, self.origin or source.name))
                except BadRow as error:
                    rejected.append(NotUsed(offset, name, str(error)))
                    continue
                rows.append(offset)
                images.append(pair.images)
        return Annotated(_serialised(found), rows, images, rejected, skipped)

    @staticmethod
    @refuses
    def _pairs(source: Source, row: Mapping[str, Any]) -> tuple[list[Pair], list[str]]:
        media = other_media(row)
        if media:
            raise BadRow(f"the row has a {media.rstrip('s').partition('_')[0]}, which is not trained on")
        try:
            items = list(source.pairs(row))
        except KeyError as error:
            raise BadRow(f"no column {error.args[0]}") from None
        pairs = [item for item in items if isinstance(item, Pair)]
        if not items:
            return [], ["the row gives no pair"]
        return pairs, [str(item) for item in items if isinstance(item, SkippedPair)]

    def _row_id(self, row: Mapping[str, Any], position: str) -> str:
        for key in (self.options.columns.get("id", "id"), "idx", "question_id", "battle_id"):
            if isinstance(row.get(key), str | int):
                return str(row[key])
        return position


@refuses
def annotated(
    source: Source, pair: Pair, name: str, columns: Mapping[str, Any], origin: str
) -> dict[str, Any]:
    """The pair as a row of the dataset, images left out. Raises `BadRow` where an invariant does not hold.

    `columns` is the row of the source, in which no image may be left that the pair does not have.
    """
    from dataset_tools.sentences import split_sentences

    if not pair.images and source.images == "required":
        raise BadRow("no image")
    if not pair.images:
        unread = [key for key, value in columns.items() if looks_like_image(key, value)]
        if unread:
            raise BadRow(f"no image was read, but a column looks like one: {', '.join(unread[:4])}")
    prompt = [{"role": "user", "content": pair.prompt}] if isinstance(pair.prompt, str) else pair.prompt
    prompt = with_markers(prompt, len(pair.images))
    row: dict[str, Any] = {
        "id": name,
        "source": origin,
        "prompt": default_markers(prompt, len(pair.images)),
        "chosen_similarity": None,
        "rejected_similarity": None,
        "untrained_prefix": len(pair.context.rstrip()),
    }
    for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not isinstance(text, str):
            raise BadRow(f"{side} is {'null' if text is None else 'not a text'}")
        row[side] = [{"role": "assistant", "content": _behind(pair.context, text)}]
    for message in (*row["prompt"], *row["chosen"], *row["rejected"], {"content": name}):
        try:
            message["content"].encode()
        except UnicodeEncodeError as error:
            raise BadRow(f"a text is not Unicode: {error.reason} at character {error.start}") from None
    for side in RESPONSES:
        text = row[side][0]["content"]
        spans = split_sentences(text, row["untrained_prefix"])
        row[f"{side}_sentences"] = [{"start": start, "end": end} for start, end in spans]
    problems = invariants({**row, "images": pair.images})
    if problems:
        raise BadRow("; ".join(problems))
    return row


def _behind(context: str, answer: str) -> str:
    """An answer behind its context, a space between the two where neither brings any."""
    if not context.strip():
        return answer
    return context + ("" if context[-1].isspace() or answer[:1].isspace() else " ") + answer


def _serialised(rows: list[dict[str, Any]]) -> bytes:
    whole = arrow_schema()
    schema = pa.schema([item for item in whole if item.name != "images"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    found: bytes = sink.getvalue().to_pybytes()
    return found
