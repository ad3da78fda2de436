"""Parquet and arrow files as streams of chunks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_tools.convert import chunks
from dataset_tools.convert.chunks import SAMPLE_ROWS, Chunk
from dataset_tools.convert.files import RANGE_BYTES, AnyFile, HubFile
from dataset_tools.convert.pictures import Pictures, arrow_chunk
from dataset_tools.errors import DataError


class ParquetFile:
    """A parquet file, read a few megabytes at a time, also where it is one huge row group."""

    def __init__(self, path: AnyFile, name: str):
        self.path, self.name = path, name
        with _arrow_stream(path) as stream:
            file = self._open(stream)
            self.total: int | None = file.metadata.num_rows
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            self._sizes = [(group.num_rows, group.total_byte_size) for group in groups]
            self._schema = file.schema_arrow
        self._json = json_features(self._schema)

    def _open(self, stream: Any) -> pq.ParquetFile:
        buffer = RANGE_BYTES if isinstance(self.path, HubFile) else 1 << 20
        try:
            return pq.ParquetFile(stream, pre_buffer=False, buffer_size=buffer)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(
                f"{self.path} is not a readable parquet file, perhaps cut short: {error}"
            ) from None

    def sample(self) -> dict[str, Any]:
        return _first_values(self.chunks(0, 0, SAMPLE_ROWS), self._schema.names)

    def values(self, column: str, limit: int | None = None) -> Iterator[Any]:
        """One column's values, of the first `limit` rows; None where it is not there."""
        if column not in self._schema.names:
            yield from [None] * min(self.total or 0, limit or self.total or 0)
            return
        left = limit
        with _arrow_stream(self.path) as stream:
            for batch in self._open(stream).iter_batches(min(4096, limit or 4096), columns=[column]):
                values = batch.column(0).to_pylist()
                yield from values if left is None else values[:left]
                left = None if left is None else left - len(values)
                if left is not None and left <= 0:
                    return

    def ends(self, rows: int, total: int) -> list[int]:
        """Where pieces of at least `rows` rows end, so that no piece is read to get at another."""
        ends, before, last = [], 0, 0
        for group_rows, _ in self._sizes:
            before += group_rows
            if before - last >= rows or before == total:
                ends.append(before)
                last = before
        return ends

    def chunks(self, skip: int, start: int, most: int | None = None) -> Iterator[tuple[Chunk, Pictures]]:
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
        rows_at_once = int(min(max(chunks.CHUNK_BYTES / max(largest, 1), 1), most or chunks.CHUNK_ROWS))
        with _arrow_stream(self.path) as stream:
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
        return arrow_chunk(batch, self.name, first, start, self._json)


class ArrowFile:
    """An arrow file as `save_to_disk` of the datasets library writes it."""

    def __init__(self, path: AnyFile, name: str, count: bool = True):
        self.path, self.name = path, name
        with self._open() as (_, reader):
            self._schema = reader.schema
        self._json = json_features(self._schema)
        self.total: int | None = None
        if count:
            with self._open() as (_, reader):
                self.total = sum(batch.num_rows for batch in reader)

    @contextmanager
    def _open(self) -> Iterator[tuple[Any, Any]]:
        with _arrow_stream(self.path) as stream:
            try:
                yield stream, pa.ipc.open_stream(stream)
            except (pa.ArrowInvalid, OSError) as error:
                raise DataError(
                    f"{self.path} is not a readable arrow file, perhaps cut short: {error}"
                ) from None

    def sample(self) -> dict[str, Any]:
        return _first_values(self.chunks(0, 0, SAMPLE_ROWS), self._schema.names)

    def values(self, column: str, limit: int | None = None) -> Iterator[Any]:
        left = limit
        with self._open() as (_, reader):
            for batch in reader:
                values = (
                    batch.column(column).to_pylist()
                    if column in self._schema.names
                    else [None] * batch.num_rows
                )
                yield from values if left is None else values[: max(left, 0)]
                left = None if left is None else left - len(values)
                if left is not None and left <= 0:
                    return

    def ends(self, rows: int, total: int) -> list[int]:
        """Where pieces of at least `rows` rows end."""
        return chunks.even_ends(rows, total)

    def chunks(self, skip: int, start: int, most: int | None = None) -> Iterator[tuple[Chunk, Pictures]]:
        """Chunks from row `skip` of the file on; `start` is the file's first row counted over all files."""
        position = 0
        with self._open() as (_, reader):
            for batch in reader:
                rows = int(
                    min(
                        max(chunks.CHUNK_BYTES * batch.num_rows / max(batch.nbytes, 1), 1),
                        most or chunks.CHUNK_ROWS,
                    )
                )
                for begin in range(0, batch.num_rows, rows):
                    first, part = position + begin, batch.slice(begin, rows)
                    if first + part.num_rows <= skip:
                        continue
                    if first < skip:
                        part, first = part.slice(skip - first), skip
                    yield arrow_chunk(part, self.name, first, start, self._json)
                position += batch.num_rows
        self.total = position


def json_features(schema: pa.Schema) -> dict[str, Any]:
    """Columns that hold the `Json` type of the datasets library: name to the type's place in the column."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: _json_place(features[name]) for name in schema.names if name in features}
    except (KeyError, TypeError, ValueError):
        found = {}
    for field in schema:
        if isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name == "arrow.json":
            found[field.name] = True
    return {name: place for name, place in found.items() if place}


def _json_place(feature: Any) -> Any:
    """True for a JSON text, a list of one place, or an object of places; None where there is none."""
    if isinstance(feature, list) and feature:
        inner = _json_place(feature[0])
        return [inner] if inner else None
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "Json":
        return True
    if "feature" in feature:
        inner = _json_place(feature["feature"])
        return [inner] if inner else None
    if "_type" in feature:
        return None
    inner = {name: place for name, value in feature.items() if (place := _json_place(value))}
    return inner or None


def _arrow_stream(file: AnyFile) -> Any:
    return pa.OSFile(os.fsencode(file)) if isinstance(file, Path) else pa.PythonFile(file.open("rb"), "r")


def _first_values(chunks: Iterator[tuple[Chunk, Pictures]], names: list[str]) -> dict[str, Any]:
    """The first value of each column that is not null in the first chunk; {} where there are no rows."""
    for chunk, _ in chunks:
        row: dict[str, Any] = dict.fromkeys(names)
        for found in chunk.rows():
            if isinstance(found, dict):
                row.update({name: found[name] for name in row if row[name] is None})
        return row
    return {}
