"""Consecutive rows of a source file, as they travel to a worker process.

A chunk's texts travel, its images stay behind: in the rows that a worker sees, an embedded image is an
`Embedded`, a place among the chunk's `Pictures`, and an image given by path a `str`. Workers import
no more of pyarrow than this needs, which halves the time they take to start.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from dataset_tools.errors import BadRow

LINE_BYTES = 16 << 20
"""A longer line is refused: parsed, it takes up to fifty times as much memory."""
CHUNK_ROWS = 128
CHUNK_BYTES = 4 << 20
SAMPLE_ROWS = 20
MOST_PIECES = 64
"""Of a file that has to be read from its beginning to get at a row: so often is some of it read in vain."""


@dataclass
class Chunk:
    """Some consecutive rows of one file. `start` counts rows over all files, `first` within this one."""

    start: int
    file: str
    first: int
    count: int

    def rows(self) -> Iterator[Mapping[str, Any] | BadRow]:
        """One item per row: its columns, or why it cannot be read."""
        raise NotImplementedError

    def place(self, offset: int) -> int:
        """Where in its file a row is, from 0: which row, or of a JSONL file which line."""
        return self.first + offset


@dataclass
class ArrowChunk(Chunk):
    """Rows of a parquet file: the columns without images, serialised, and what stands for the images."""

    texts: bytes = b""
    images: dict[str, list[Any]] = field(default_factory=dict)
    json: dict[str, Any] = field(default_factory=dict)
    """Columns that hold JSON texts, with the place of the texts in them (`readers.json_features`)."""

    def rows(self) -> Iterator[Mapping[str, Any] | BadRow]:
        batch = pa.ipc.open_stream(self.texts).read_next_batch()
        try:
            rows = batch.to_pylist()
        except Exception:  # a text that is not UTF-8, a date beyond the year 9999
            rows = [self._single(batch, index) for index in range(batch.num_rows)]
        for index, row in enumerate(rows):
            if not isinstance(row, BadRow):
                row.update({name: values[index] for name, values in self.images.items()})
                try:
                    row.update(
                        {name: _parsed(row[name], place) for name, place in self.json.items() if name in row}
                    )
                except (ValueError, RecursionError) as error:
                    row = BadRow(f"a column of JSON texts is not JSON: {error}")
            yield row

    @staticmethod
    def _single(batch: pa.RecordBatch, index: int) -> dict[str, Any] | BadRow:
        try:
            found: dict[str, Any] | BadRow = batch.slice(index, 1).to_pylist()[0]
            return found
        except UnicodeDecodeError as error:
            return BadRow(f"a text is not UTF-8: {error.reason} at byte {error.start}")
        except Exception as error:
            return BadRow(f"a value cannot be read: {error}")


@dataclass
class LinesChunk(Chunk):
    """Lines of a JSONL file, parsed where they are used."""

    lines: list[bytes] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """Of the lines in their file: blank ones lie between them, which are no rows."""

    def rows(self) -> Iterator[Mapping[str, Any] | BadRow]:
        return (parse_line(line) for line in self.lines)

    def place(self, offset: int) -> int:
        return self.numbers[offset]


@dataclass
class ObjectsChunk(Chunk):
    """Items of a JSON array."""

    items: list[Any] = field(default_factory=list)

    def rows(self) -> Iterator[Mapping[str, Any] | BadRow]:
        for item in self.items:
            yield (
                item
                if isinstance(item, dict | BadRow)
                else BadRow(f"not a JSON object but {type(item).__name__}")
            )


def even_ends(rows: int, total: int) -> list[int]:
    """Where pieces of `rows` rows end, or of more, so that there are at most `MOST_PIECES`."""
    step = max(rows, -(-total // MOST_PIECES))
    return [min(end, total) for end in range(step, total + step, step)]


def _parsed(value: Any, place: Any) -> Any:
    """A value with the JSON texts at `place` read."""
    if value is None:
        return None
    if place is True:
        return json.loads(value) if isinstance(value, str) else value
    if isinstance(place, list):
        return [_parsed(item, place[0]) for item in value]
    return {**value, **{name: _parsed(value.get(name), inner) for name, inner in place.items()}}


def parse_line(line: bytes) -> Mapping[str, Any] | BadRow:
    """A JSON line as an object."""
    if len(line) >= LINE_BYTES:
        return BadRow(f"the line is longer than {LINE_BYTES >> 20} MiB")
    try:
        value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(f"the line is not UTF-8: {error.reason} at byte {error.start}")
    except (ValueError, RecursionError) as error:
        return BadRow(f"the line is not JSON: {error}")
    return (
        value if isinstance(value, dict) else BadRow(f"the line is not a JSON object: {type(value).__name__}")
    )
