"""`validate`: every invariant of a converted dataset, read back from its files, images decoded."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import DecompressionBombWarning

from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.workers import ordered_map
from dataset_tools.dataset.folder import DATASET_INFO
from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import COLUMNS, OPTIONAL, invariants, shards
from dataset_tools.errors import DataError
from dataset_tools.images.opening import open_undecoded
from dataset_tools.scoring.scored import scoring_problem


@dataclass
class Problem:
    """What is wrong with a row, or with a file (`row` None)."""

    id: str | None
    file: str
    row: int | None
    problem: str

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file} row {self.row}"
        return (
            f"{self.id or '(no id)'} ({where}): {self.problem}"
            if self.row is not None
            else f"{where}: {self.problem}"
        )


@dataclass
class Report:
    """The outcome: rows looked at, problems counted by kind, and the first of them."""

    rows: int = 0
    total: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem, keep: int) -> None:
        """Count a problem; the first `keep` are kept."""
        self.total += 1
        self.kinds[problem.problem.partition(":")[0]] += 1
        if len(self.problems) < keep:
            self.problems.append(problem)


@dataclass(frozen=True)
class _Part:
    path: Path
    group: int
    first: int
    rows: int
    decode: bool = True


def check_part(part: _Part) -> tuple[list[str | None], list[tuple[int, str]]]:
    """The ids of a row group, and (row of the file, problem) for each problem of its rows."""
    ids: list[str | None] = []
    problems: list[tuple[int, str]] = []
    try:
        _check_rows(part, ids, problems)
    except Exception as error:  # a damaged file makes readers raise what they like
        text = str(error).strip().partition("\n")[0][:300]
        number = part.first + len(ids)
        rest = part.rows - len(ids)
        ids += [None] * max(rest, 1)
        problems.append((number, f"the file cannot be read from here on: {text}"))
    return ids, problems


def _check_rows(part: _Part, ids: list[str | None], problems: list[tuple[int, str]]) -> None:
    with pa.OSFile(os.fsencode(part.path)) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", DecompressionBombWarning)
        file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
        for batch in file.iter_batches(32, row_groups=[part.group], use_threads=False):
            for row in batch.to_pylist():
                number = part.first + len(ids)
                ids.append(row["id"])
                found = [*invariants(row), *image_problems(row["images"], part.decode)]
                problems += [(number, problem) for problem in found]


def image_problems(images: list[dict[str, Any]] | None, decode: bool = True) -> list[str]:
    """What keeps each image from being decoded, or from being opened."""
    problems = []
    for index, image in enumerate(images or []):
        data = image.get("bytes") if image else None
        if not data:
            problems.append(f"image {index} has no bytes")
            continue
        try:
            with open_undecoded(data) as picture:
                if decode:
                    picture.load()
        except Exception as error:  # decoders raise what they like, SyntaxError and struct.error included
            problems.append(f"image {index} cannot be decoded: {error}")
    return problems


def validate(
    folder: Path,
    workers: int = 1,
    keep: int = 100,
    advance: Callable[[int], None] = lambda rows: None,
    *,
    decode: bool = True,
    complete: bool = True,
) -> Report:
    """Check a converted dataset. Raises `UsageError` where the folder is not one.

    `decode`: decode every image, else read its header. `complete`: look for the file LLaMA-Factory reads too.
    """
    record = read_record(folder)
    report = Report()
    files = shards(folder)
    if not files:
        raise DataError(f"{folder / 'data'} holds no parquet file.")
    if complete and not (folder / DATASET_INFO).is_file():
        report.add(Problem(None, DATASET_INFO, None, "missing, LLaMA-Factory cannot read the folder"), keep)
    parts = []
    readable: list[Path] = []
    for path in files:
        name = path.relative_to(folder).as_posix()
        found = _parts(path, decode)
        if isinstance(found, str):
            report.add(Problem(None, name, None, found), keep)
        else:
            parts += found
            readable.append(path)
    try:
        scoring = scoring_problem(folder, record, readable)
    except DataError as error:
        scoring = str(error)
    if scoring:
        report.add(Problem(None, "data", None, scoring), keep)
    ids = IdSet()
    results = ordered_map(check_part, ((part, None) for part in parts), workers)
    with closing(results):
        for part, _, (names, problems) in results:
            file = part.path.relative_to(folder).as_posix()
            for index, each in enumerate(names):
                if each and not ids.add(each):
                    problems.append((part.first + index, "duplicate id"))
            for row, problem in sorted(problems):
                report.add(Problem(names[row - part.first], file, row, problem), keep)
            report.rows += len(names)
            advance(len(names))
    expected = record.get("counts", {}).get("rows")
    if expected is not None and expected != report.rows:
        report.add(Problem(None, "data", None, f"{report.rows} rows, but aspo.json says {expected}"), keep)
    return report


def first_problems(folder: Path) -> list[str]:
    """The first problems of a dataset that was just fetched; images are looked at by their headers."""
    return list(map(str, validate(folder, keep=3, decode=False, complete=False).problems))


def _parts(path: Path, decode: bool) -> list[_Part] | str:
    """The row groups of a file, or what is wrong with the file."""
    try:
        with pa.OSFile(os.fsencode(path)) as stream:
            file = pq.ParquetFile(stream)
            metadata, schema = file.metadata, file.schema_arrow
    except Exception as error:
        text = str(error).strip().partition("\n")[0][:300]
        return f"not a readable parquet file: {text}"
    for name, (kind, _) in COLUMNS.items():
        if name not in schema.names:
            if name in OPTIONAL:
                continue
            return f"no column {name}"
        if not schema.field(name).type.equals(kind):
            return f"column {name} is {schema.field(name).type}, expected {kind}"
    parts, first = [], 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        parts.append(_Part(path, group, first, rows, decode))
        first += rows
    return parts
