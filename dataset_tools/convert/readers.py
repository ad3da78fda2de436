"""Reading source files as a stream of chunks, so that memory never grows with a file or a row group."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_tools.convert.chunks import LINE_BYTES, ArrowChunk, Chunk, LinesChunk, ObjectsChunk
from dataset_tools.convert.gate import file_faults, items_of_file
from dataset_tools.errors import DataError

CHUNK_ROWS = 128
CHUNK_BYTES = 4 << 20
SAMPLE_ROWS = 20
_ITEM_START = re.compile(r"[\s,]*")


class Pictures:
    """The images embedded in a chunk, by index."""

    def __init__(self) -> None:
        self._arrays: list[tuple[pa.Array, list[str | None]]] = []
        self._slices: list[list[int]] = []

    def add(self, images: pa.Array) -> list[int | str | None]:
        """Take an array of {bytes, path} structs or of bytes; returns what stands for each in a row."""
        base = sum(len(data) for data, _ in self._arrays)
        if pa.types.is_struct(images.type):
            names = [images.type.field(index).name for index in range(images.type.num_fields)]
            data = pc.struct_field(images, "bytes")
            paths = pc.struct_field(images, "path").to_pylist() if "path" in names else [None] * len(images)
        else:
            data, paths = images, [None] * len(images)
        self._arrays.append((data, paths))
        wide = pa.types.is_large_binary(data.type)
        ends = np.frombuffer(data.buffers()[1], np.int64 if wide else np.int32)
        self._slices.append(ends[data.offset : data.offset + len(data) + 1].tolist())
        valid = data.is_valid().to_pylist()
        return [base + index if there else paths[index] for index, there in enumerate(valid)]

    def get(self, index: int) -> tuple[pa.Buffer, str | None]:
        """Bytes and stored path of an image; nothing is copied, as `data[index].as_buffer()` would."""
        for (data, paths), ends in zip(self._arrays, self._slices, strict=True):
            if index < len(data):
                return data.buffers()[2].slice(ends[index], ends[index + 1] - ends[index]), paths[index]
            index -= len(data)
        raise IndexError(index)

    def column(self, indices: list[int]) -> pa.Array:
        """The bytes of some images as one array, without a copy where they follow each other."""
        data = self._arrays[0][0] if len(self._arrays) == 1 else pa.concat_arrays(a for a, _ in self._arrays)
        if indices == list(range(indices[0], indices[0] + len(indices))):
            column = data.slice(indices[0], len(indices))
        else:
            column = data.take(pa.array(indices, pa.int64()))
        return column.cast(pa.binary())


class ParquetFile:
    """A parquet file, read a few megabytes at a time, also where it is one huge row group."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        with pa.OSFile(os.fsencode(path)) as stream:
            file = self._open(stream)
            self.total: int | None = file.metadata.num_rows
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            self._sizes = [(group.num_rows, group.total_byte_size) for group in groups]
            self._schema = file.schema_arrow

    def _open(self, stream: Any) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{self.path} is not a readable parquet file, perhaps cut short: {error}"
            ) from None

    def sample(self) -> dict[str, Any]:
        row: dict[str, Any] = {name: None for name in self._schema.names}
        for chunk, _ in self.chunks(0, 0):
            for found in chunk.rows():
                if isinstance(found, dict):
                    row.update({name: found[name] for name in row if row[name] is None})
            break
        return row

    def chunks(self, skip: int, start: int) -> Iterator[tuple[Chunk, Pictures]]:
        """Chunks from row `skip` of the file on; `start` is the file's first row counted over all files."""
        groups, before = [], 0
        position = None
        for index, (rows, _) in enumerate(self._sizes):
            if before + rows > skip and rows:
                position = before if position is None else position
                groups.append(index)
            before += rows
        if position is None:
            return
        largest = max(size / rows for rows, size in self._sizes if rows)
        rows_at_once = int(min(max(CHUNK_BYTES / max(largest, 1), 1), CHUNK_ROWS))
        with pa.OSFile(os.fsencode(self.path)) as stream:
            file = self._open(stream)
            try:
                for batch in file.iter_batches(rows_at_once, row_groups=groups, use_threads=False):
                    first, position = position, position + batch.num_rows
                    if position <= skip:
                        continue
                    if first < skip:
                        batch, first = batch.slice(skip - first), skip
                    yield self._chunk(batch, first, start)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(f"{self.path} cannot be read from row {position} on: {error}") from None

    def _chunk(self, batch: pa.RecordBatch, first: int, start: int) -> tuple[Chunk, Pictures]:
        pictures, names = Pictures(), []
        images: dict[str, list[Any]] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            kind = column.type
            if _is_image(kind):
                images[name] = pictures.add(column)
            elif _is_list(kind) and _is_image(kind.value_type):
                flat = iter(pictures.add(column.flatten()))
                lengths = pc.list_value_length(column).to_pylist()
                images[name] = [None if n is None else [next(flat) for _ in range(n)] for n in lengths]
            else:
                names.append(name)
        sink = pa.BufferOutputStream()
        texts = batch.select(names)
        with pa.ipc.new_stream(sink, texts.schema) as writer:
            writer.write_batch(texts)
        chunk = ArrowChunk(
            start + first, self.name, first, batch.num_rows, sink.getvalue().to_pybytes(), images
        )
        return chunk, pictures


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    if not pa.types.is_struct(kind):
        return False
    return any(
        kind.field(index).name == "bytes" and _is_image(kind.field(index).type)
        for index in range(kind.num_fields)
    )


class JsonFile:
    """A file of JSON lines, or of one JSON array, read a piece at a time."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        with open(path, "rb") as stream:
            head = stream.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        self._array = head.startswith(b"[")
        self.total: int | None = None if self._array else _count_lines(path)

    def sample(self) -> dict[str, Any]:
        row: dict[str, Any] = {}
        seen = 0
        for chunk, _ in self.chunks(0, 0):
            for found in chunk.rows():
                if isinstance(found, Mapping):
                    row.update({key: value for key, value in found.items() if row.get(key) is None})
                    seen += 1
                if seen >= SAMPLE_ROWS:
                    return row
        return row

    def chunks(self, skip: int, start: int) -> Iterator[tuple[Chunk, Pictures]]:
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
            if len(held) == CHUNK_ROWS or size >= CHUNK_BYTES:
                yield self._chunk(held, number - len(held), start)
                held, size = [], 0
        self.total = number
        if held:
            yield self._chunk(held, number - len(held), start)

    def _chunk(self, held: list[Any], first: int, start: int) -> tuple[Chunk, Pictures]:
        kind = ObjectsChunk if self._array else LinesChunk
        return kind(start + first, self.name, first, len(held), held), Pictures()

    def _lines(self) -> Iterator[tuple[bytes, int]]:
        with open(self.path, "rb") as stream:
            while line := stream.readline(LINE_BYTES):
                while len(line) == LINE_BYTES and not line.endswith(b"\n"):
                    rest = stream.readline(LINE_BYTES)
                    if len(rest) < LINE_BYTES or rest.endswith(b"\n"):
                        break
                yield line, len(line)

    def _items(self) -> Iterator[tuple[Any, int]]:
        decode = json.JSONDecoder().raw_decode
        with open(self.path, encoding="utf-8-sig") as stream:
            try:
                text = stream.read(1 << 20)
                position = text.index("[") + 1
                while True:
                    position = _ITEM_START.match(text, position).end()  # type: ignore[union-attr]
                    if text.startswith("]", position):
                        return
                    try:
                        item, end = decode(text, position)
                        if end == len(text):
                            raise ValueError("the array has no end")
                    except ValueError as error:
                        left = len(text) - position
                        more = stream.read(max(1 << 20, left))
                        if not more or left > LINE_BYTES:
                            raise DataError(f"{self.path} is not a whole JSON array: {error}") from None
                        text, position = text[position:] + more, 0
                        continue
                    yield item, end - position
                    position = end
            except UnicodeDecodeError as error:
                raise DataError(f"{self.path} is not UTF-8: {error.reason}") from None


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def open_file(path: Path, name: str) -> ParquetFile | JsonFile:
    """A reader for a data file, by its ending; `name` is how rows of it are referred to."""
    return ParquetFile(path, name) if path.suffix == ".parquet" else JsonFile(path, name)


class Reader:
    """Several files, one after the other."""

    def __init__(self, files: list[tuple[Path, str]]):
        self.files = []
        for path, name in files:
            with file_faults(path):
                self.files.append(open_file(path, name))

    @property
    def total(self) -> int | None:
        """Rows in all files; None where that is known only after reading them."""
        totals = [file.total for file in self.files]
        return None if None in totals else sum(total or 0 for total in totals)

    def sample(self) -> dict[str, Any]:
        """The columns of the first file, each with a value."""
        with file_faults(self.files[0].path):
            return self.files[0].sample()

    def chunks(self, start: int = 0) -> Iterator[tuple[Chunk, Pictures]]:
        """All chunks from row `start` (counted over all files), in order."""
        before = 0
        for file in self.files:
            if file.total is None or before + file.total > start:
                yield from items_of_file(file.chunks(max(start - before, 0), before), file.path)
            before += file.total or 0  # known once the file was read to its end
