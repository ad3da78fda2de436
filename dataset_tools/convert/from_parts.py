"""The shards of a conversion on a cluster, each made from the parts that hold its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_tools.convert.parts import rows_file
from dataset_tools.convert.source_identity import file_digest
from dataset_tools.dataset.parquet import ShardWriter, image_bytes
from dataset_tools.dataset.schema import arrow_schema, read_footer, readable
from dataset_tools.errors import DataError

PLANS = "shards.jsonl"
"""Which rows of which parts each shard holds, a line for a shard, so that the driver need not remember it."""


@dataclass(frozen=True)
class Shard:
    """A shard to make: its path, and where its line of the plans begins."""

    number: int
    path: Path
    plan: int

    def __str__(self) -> str:
        return str(self.path)


@dataclass
class Plan:
    """Rows of one shard, as runs of pairs that follow each other: (part, first, behind the last)."""

    rows: int = 0
    runs: list[list[int]] = field(default_factory=list)

    def add(self, part: int, place: int) -> None:
        """Add a pair of a part."""
        self.rows += 1
        if self.runs and self.runs[-1][0] == part and self.runs[-1][2] == place:
            self.runs[-1][2] += 1
        else:
            self.runs.append([part, place, place + 1])

    def write(self, stream: BinaryIO) -> None:
        """Append it to the plans."""
        stream.write(json.dumps([self.rows, self.runs]).encode() + b"\n")

    @classmethod
    def read(cls, path: Path, start: int) -> Plan:
        """The plan that begins at a byte of the plans."""
        with open(path, "rb") as stream:
            stream.seek(start)
            return cls(*json.loads(stream.readline()))

    def tables(self, folder: Path) -> Iterator[pa.Table]:
        """The rows, a row group of a part at a time."""
        for part in dict.fromkeys(run[0] for run in self.runs):
            runs = [(first, end) for number, first, end in self.runs if number == part]
            yield from _rows(rows_file(folder, part), runs)


def _rows(path: Path, runs: list[tuple[int, int]]) -> Iterator[pa.Table]:
    with open(path, "rb") as stream:
        with readable(path):
            file = pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True)
        before = 0
        for index in range(file.num_row_groups):
            count = file.metadata.row_group(index).num_rows
            wanted = [
                (max(first - before, 0), min(end - before, count))
                for first, end in runs
                if first < before + count and end > before
            ]
            if wanted:
                with readable(path):
                    group = file.read_row_group(index, use_threads=False).cast(arrow_schema())
                for first, end in wanted:
                    yield group.slice(first, end - first)
            before += count


class ShardMaker:
    """Makes one shard after the other out of the parts in a folder."""

    def __init__(self, folder: Path, repeats_images: bool):
        self._folder, self._repeats_images = folder, repeats_images

    def __call__(self, shard: Shard) -> tuple[int, str]:
        """The shard's number and the digest of its file; one that is there is not made again."""
        plan = Plan.read(self._folder / PLANS, shard.plan)
        if not (shard.path.is_file() and read_footer(shard.path).num_rows == plan.rows):
            self._make(shard.path, plan)
        return shard.number, file_digest(shard.path)

    def _make(self, path: Path, plan: Plan) -> None:
        made = ShardWriter(path, self._repeats_images, self._folder / f".{path.name}.{uuid4().hex}.partial")
        try:
            for table in plan.tables(self._folder):
                made.write(table, image_bytes(table))
            if made.rows != plan.rows:
                raise DataError(
                    f"the parts in {self._folder} lack rows of {path}: remove it and start again."
                )
            made.close()
        except BaseException:
            made.abandon()
            raise
