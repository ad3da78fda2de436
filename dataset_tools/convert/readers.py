"""Reading source files as a stream of chunks, so that memory never grows with a file or a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from dataset_tools.convert import chunks
from dataset_tools.convert.arrow_files import ArrowFile, ParquetFile
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.files import AnyFile, kind_of
from dataset_tools.convert.gate import file_faults, items_of_file
from dataset_tools.convert.pictures import Pictures
from dataset_tools.convert.text_files import JsonFile, TableFile

AnyReader: TypeAlias = ParquetFile | ArrowFile | JsonFile


def open_file(path: AnyFile, name: str, count: bool = True) -> AnyReader:
    """A reader for a data file, by its ending; `name` is how rows of it are referred to.

    `count`: go through a file whose number of rows is not written in it, to know it beforehand.
    """
    kind = kind_of(path.name)
    if kind == ".parquet":
        return ParquetFile(path, name)
    if kind == ".arrow":
        return ArrowFile(path, name, count)
    return (TableFile if kind in (".csv", ".tsv") else JsonFile)(path, name, count)


class Reader:
    """Several files, one after the other, up to row `limit`."""

    def __init__(self, files: Sequence[tuple[AnyFile, str]], limit: int | None = None):
        self.files: list[AnyReader] = []
        for path, name in files:
            with file_faults(path):
                self.files.append(open_file(path, name, limit is None))
        self.limit = limit

    @property
    def total(self) -> int | None:
        """Rows in all files; None where that is known only after reading them."""
        totals = [file.total for file in self.files]
        return None if None in totals else sum(total or 0 for total in totals)

    def values(self, column: str) -> Iterator[Any]:
        """One column's values in all files."""
        left = self.limit
        for file in self.files:
            for value in items_of_file(file.values(column, left), file.path):
                yield value
                left = None if left is None else left - 1
            if left is not None and left <= 0:
                return

    def chunks(self, start: int = 0) -> Iterator[tuple[Chunk, Pictures]]:
        """All chunks from row `start` (counted over all files), in order."""
        before = 0
        most = chunks.CHUNK_ROWS if self.limit is None else max(min(chunks.CHUNK_ROWS, self.limit), 1)
        for file in self.files:
            if self.limit is not None and before >= self.limit:
                return
            if file.total is None or before + file.total > start:
                found = file.chunks(max(start - before, 0), before, most)
                for chunk, pictures in items_of_file(found, file.path):
                    yield chunk, pictures
                    if self.limit is not None and chunk.start + chunk.count >= self.limit:
                        return
            before += file.total or 0  # known once the file was read to its end
