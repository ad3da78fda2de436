"""JSON lines, JSON arrays, objects of lists and tables of separated values as streams of chunks."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.convert import chunks
from dataset_tools.convert.chunks import LINE_BYTES, SAMPLE_ROWS, Chunk, LinesChunk, ObjectsChunk, parse_line
from dataset_tools.convert.files import AnyFile, kind_of, open_unpacked
from dataset_tools.convert.pictures import Pictures
from dataset_tools.errors import BadRow, DataError

_ITEM_START = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")
_KEYED = re.compile(rb'\{[ \t]*\r?\n\s*"(?:[^"\\]|\\.)*"\s*:\s*\[\s*\{')
"""An indented object whose first value is a list of objects. A JSON line has no line break in it."""


class JsonFile:
    """A file of JSON lines, or of one JSON array, read a piece at a time.

    Or of one indented object of lists, whose rows get the name of their list as `key`.
    """

    def __init__(self, path: AnyFile, name: str, count: bool = True):
        self.path, self.name = path, name
        with open_unpacked(path) as stream:
            head = stream.read(4096)
        _check_text(path, head)
        head = head.removeprefix(codecs.BOM_UTF8).lstrip()
        self._keyed = _KEYED.match(head) is not None
        self._array = self._keyed or _begins_array(head)
        self.total: int | None = sum(1 for _ in self._lines()) if count and not self._array else None

    def sample(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        seen = 0
        for chunk, _ in self.chunks(0, 0, SAMPLE_ROWS):
            for found in chunk.rows():
                if isinstance(found, Mapping):
                    row.update({key: value for key, value in found.items() if row.get(key) is None})
                    seen += 1
                if seen >= SAMPLE_ROWS:
                    return row
        return row

    def values(self, column: str, limit: int | None = None) -> Iterator[Any]:
        """One column's values, of the first `limit` rows; None where it is not there."""
        for number, (item, _) in enumerate(self._items() if self._array else self._lines()):
            if limit is not None and number >= limit:
                return
            row = item if self._array else parse_line(item[1])
            yield row.get(column) if isinstance(row, Mapping) else None

    def ends(self, rows: int, total: int) -> list[int]:
        """Where pieces of at least `rows` rows end."""
        return chunks.even_ends(rows, total)

    def chunks(self, skip: int, start: int, most: int | None = None) -> Iterator[tuple[Chunk, Pictures]]:
        """Chunks from row `skip` of the file on; `start` is the file's first row counted over all files."""
        items = self._items() if self._array else self._lines()
        held: list[Any] = []
        size, number = 0, 0
        for item, length in items:
            number += 1
            if number <= skip:
                continue
            held.append(item)
            size += length
            if len(held) >= (most or chunks.CHUNK_ROWS) or size >= chunks.CHUNK_BYTES:
                yield self._chunk(held, number - len(held), start)
                held, size = [], 0
        self.total = number
        if held:
            yield self._chunk(held, number - len(held), start)

    def _chunk(self, held: list[Any], first: int, start: int) -> tuple[Chunk, Pictures]:
        place = (start + first, self.name, first, len(held))
        if self._array:
            return ObjectsChunk(*place, held), Pictures()
        return LinesChunk(*place, [line for _, line in held], [number for number, _ in held]), Pictures()

    def _lines(self) -> Iterator[tuple[tuple[int, bytes], int]]:
        """The lines that are not blank, each with its number in the file, and its length."""
        number = -1
        with open_unpacked(self.path) as stream:
            while line := stream.readline(LINE_BYTES):
                while len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    rest = stream.readline(LINE_BYTES)
                    if len(rest) < LINE_BYTES or rest.endswith(b"\n"):
                        break
                number += 1
                if not line.isspace():
                    yield (number, line), len(line)

    def _items(self) -> Iterator[tuple[Any, int]]:
        opens, closes, whole = ("{", "}", "object") if self._keyed else ("[", "]", "array")
        decode = _member if self._keyed else _DECODE
        with open_unpacked(self.path) as packed, io.TextIOWrapper(packed, "utf-8-sig") as stream:
            try:
                text = stream.read(1 << 20)
                position = text.index(opens) + 1
                while True:
                    position = _ITEM_START.match(text, position).end()  # type: ignore[union-attr]
                    if text.startswith(closes, position):
                        return
                    try:
                        item, end = decode(text, position)
                        if end == len(text):
                            raise ValueError(f"the {whole} has no end")
                    except ValueError as error:
                        left = len(text) - position
                        more = stream.read(max(1 << 20, left))
                        if not more or left > LINE_BYTES:
                            raise DataError(f"{self.path} is not a whole JSON {whole}: {error}") from None
                        text, position = text[position:] + more, 0
                        continue
                    rows = _rows_of_member(*item) if self._keyed else [item]
                    for row in rows:
                        yield row, (end - position) // len(rows)
                    position = end
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path} is not UTF-8: {error.reason}") from None


_DECODE = json.JSONDecoder().raw_decode


def _member(text: str, position: int) -> tuple[Any, int]:
    """Name and value of a member of an object, and where it ends. Raises `ValueError` where it is cut."""
    name, end = _DECODE(text, position)
    colon = _COLON.match(text, end)
    if colon is None:
        raise ValueError(f"no colon behind the name at {position}")
    value, end = _DECODE(text, colon.end())
    return (name, value), end


def _rows_of_member(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [BadRow(f"what the name {name!r} stands for is not a list of rows")]
    return [{**row, "key": name} if isinstance(row, Mapping) else row for row in value]


class TableFile(JsonFile):
    """A file of comma- or tab-separated values with a header; an empty field is null."""

    def __init__(self, path: AnyFile, name: str, count: bool = True):
        self.path, self.name, self._array, self._keyed = path, name, True, False
        self.total = None

    def _items(self) -> Iterator[tuple[Any, int]]:
        csv.field_size_limit(LINE_BYTES)
        tab = kind_of(self.path.name) == ".tsv"
        with open_unpacked(self.path) as packed, io.TextIOWrapper(packed, "utf-8-sig", newline="") as stream:
            try:
                for row in csv.DictReader(stream, delimiter="\t" if tab else ",", strict=True):
                    if None in row or None in row.values():
                        yield BadRow("the line has another number of fields than the header"), 1
                        continue
                    size = sum(map(len, row.values()))
                    yield {name: value or None for name, value in row.items()}, size
            except (UnicodeDecodeError, csv.Error) as error:
                raise DataError(f"{self.path} is not a readable table: {error}") from None


def _begins_array(head: bytes) -> bool:
    """Whether a file is a JSON array, and not JSON lines of which the first is a list."""
    first, _, rest = head.partition(b"\n")
    if not head.startswith(b"[") or not rest.strip():
        return head.startswith(b"[")
    try:
        json.loads(first)
    except ValueError:
        return True
    return False


def _check_text(path: AnyFile, head: bytes) -> None:
    """Raise `DataError` for what would be read as a file without rows, or as one row."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or head[1:4:2] == b"\0\0":
        raise DataError(f"{path} is UTF-16, not UTF-8: write it anew, for example with `iconv -f UTF-16`.")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path} is packed with gzip: give it a name that ends in .gz, or unpack it.")
    if b"\r" in head.strip() and b"\n" not in head:
        raise DataError(f"the lines of {path} end with carriage returns alone: replace them by line feeds.")
