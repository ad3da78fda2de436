"""Parts of a conversion on a cluster: what became of a range of a source's rows, and the pairs to write.

A part is two files: `00012.parquet`, the pairs that are kept where their ids do not repeat, with their
images, and `00012.jsonl`, a line for each row of the source with its outcomes, which makes the part count.
Nothing in it depends on other rows, so that a part which is made twice is the same both times.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from dataset_tools.convert.annotate import Annotate
from dataset_tools.convert.files import AnyFile, Joined, ZipMember
from dataset_tools.convert.gate import file_faults, items_of_file
from dataset_tools.convert.image_places import image_store
from dataset_tools.convert.locate import Located
from dataset_tools.convert.readers import AnyReader, open_file
from dataset_tools.convert.rows import Images, Outcome, rows_of, write_pairs
from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Some consecutive rows of one file, `first` to `stop` - 1; `index` is the number of its part."""

    index: int
    file: int
    name: str
    first: int
    stop: int

    def __str__(self) -> str:
        return f"{self.name}:{self.first} to {self.stop - 1}"


@dataclass(frozen=True)
class Work:
    """All that a machine needs to know to make the parts of one conversion."""

    folder: Path
    files: list[tuple[AnyFile, str]]
    annotate: Annotate
    located: Located
    image_roots: list[Path]
    embedded: bool
    max_pixels: int
    prefixes: Mapping[str, tuple[str, ...]]
    image_folders: tuple[str, ...]
    repeats_images: bool

    def check_machine(self) -> None:
        """Raise `UsageError` where something that is read or written is not on this machine."""
        needed = [self.folder, *self.image_roots]
        for file, _ in self.files:
            needed += _paths(file)
        for path in needed:
            if not path.exists():
                raise UsageError(
                    f"{path} is not on {platform.node()}, a machine of the cluster: source, images and OUT "
                    "have to lie where all machines see them under one path (of a Hub dataset: HF_HOME)."
                )

    def images(self) -> Images:
        """The images of its rows."""
        store = image_store(self.located, self.image_roots, self.embedded, whole=False)
        return Images(store, self.max_pixels, self.prefixes, self.image_folders)


def _paths(file: AnyFile) -> list[Path]:
    if isinstance(file, ZipMember):
        return _paths(file.archive)
    if isinstance(file, Joined):
        return [path for part in file.parts for path in _paths(part)]
    return [file] if isinstance(file, Path) else []


class Counter:
    """Counts the rows of a file, for which it is gone through."""

    def __init__(self, work: Work):
        self._work = work

    def __call__(self, index: int) -> tuple[int, int]:
        """The file's index, and its rows."""
        self._work.check_machine()
        path, name = self._work.files[index]
        reader = open_file(path, name, count=False)
        return index, sum(chunk.count for chunk, _ in items_of_file(reader.chunks(0, 0), path))


class PartMaker:
    """Makes one part after the other; what it reads images from is opened once."""

    def __init__(self, work: Work):
        self._work = work
        self._images: Images | None = None
        self._file = -1
        self._reader: AnyReader

    def __call__(self, rows: Range) -> int:
        """The number of rows of the source in the part that was made."""
        if self._images is None:
            self._work.check_machine()
            settle_pandas()
            self._images = self._work.images()
            self._images.__enter__()  # for as long as this process lives
        path, name = self._work.files[rows.file]
        if self._file != rows.file:
            with file_faults(path):
                self._reader = open_file(path, name, count=False)
            self._file = rows.file
        with _Part(self._work, rows.index) as part:
            for chunk, pictures in items_of_file(self._reader.chunks(rows.first, 0), path):
                left = rows.stop - chunk.first
                found = self._work.annotate(chunk)
                kept: list[Outcome] = []
                for offset, row in enumerate(rows_of(chunk, found, pictures, self._images, left)):
                    part.note(chunk.place(offset), row)
                    kept += [outcome for outcome in row if outcome.kept]
                if kept:
                    write_pairs(part.writer, found.table(), kept, pictures)
                if chunk.count >= left:
                    break
        return rows.stop - rows.first


class _Part:
    """A part that is written: its two files get their names when they are whole."""

    def __init__(self, work: Work, index: int):
        self._rows, self._list = rows_file(work.folder, index), outcomes_file(work.folder, index)
        self._repeats_images = work.repeats_images
        # A worker that Ray gave up may still be writing: no two write into one file.
        self._writer_name = uuid4().hex
        self._made: ShardWriter | None = None

    def __enter__(self) -> _Part:
        self._stream = open(self._partial(self._list), "w", encoding="ascii")
        return self

    def _partial(self, path: Path) -> Path:
        return path.with_name(f".{path.name}.{self._writer_name}.partial")

    @property
    def writer(self) -> ShardWriter:
        """Where the pairs go."""
        self._made = self._made or ShardWriter(self._rows, self._repeats_images, self._partial(self._rows))
        return self._made

    def note(self, place: int, row: list[Outcome]) -> None:
        """Add what became of the next row of the source, which is at `place` of its file."""
        self._stream.write(json.dumps([place, [_told(outcome) for outcome in row]]) + "\n")

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                if self._made:
                    self._made.close()
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
                os.replace(self._partial(self._list), self._list)
                self._made = None
        finally:
            self._stream.close()
            if self._made:
                self._made.abandon()
            with suppress(OSError):
                self._partial(self._list).unlink(missing_ok=True)


def rows_file(folder: Path, index: int) -> Path:
    """The pairs of a part; not there where it has none."""
    return folder / f"{index:05}.parquet"


def outcomes_file(folder: Path, index: int) -> Path:
    """The outcomes of a part; there when the part is whole."""
    return folder / f"{index:05}.jsonl"


def outcomes(folder: Path, index: int) -> Iterator[tuple[int, list[Outcome]]]:
    """Where each row of a part is in its file, and what became of it: `place` counts the kept pairs."""
    count = 0
    with open(outcomes_file(folder, index), encoding="ascii") as stream:
        for line in stream:
            place, told = json.loads(line)
            row = [Outcome(*each) for each in told]
            for outcome in row:
                if outcome.kept:
                    outcome.place = count
                    count += 1
            yield place, row


def _told(outcome: Outcome) -> list[Any]:
    """An outcome as values: what is kept says more."""
    if outcome.kept:
        return [outcome.id, None, False, 0, outcome.sentences, outcome.image_count]
    return [outcome.id, outcome.reason, outcome.left_out]


def ranges(
    files: Iterable[AnyReader], totals: Mapping[int, int], start: int, limit: int | None, rows: int
) -> list[Range]:
    """The rows `start` to `limit` of all files in ranges of at least `rows` rows, if a file has that many.

    `totals`: the rows of files which do not say it themselves, by index.
    """
    found: list[Range] = []
    before = 0
    for index, file in enumerate(files):
        total = totals[index] if file.total is None else file.total
        first, last = max(start - before, 0), total if limit is None else min(limit - before, total)
        for end in file.ends(rows, total):
            if first < min(end, last):
                found.append(Range(len(found), index, file.name, first, min(end, last)))
                first = end
        before += total
    return found
