"""The loop of one conversion: rows are read, annotated and written, and may be stopped at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from dataset_tools.convert.annotate import Annotated
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.images_column import with_images
from dataset_tools.convert.readers import Pictures
from dataset_tools.convert.rows import Images, rows_of, tally_row
from dataset_tools.convert.source_identity import changed, file_digest, identity
from dataset_tools.convert.tally import Tally
from dataset_tools.convert.workers import one_ahead, ordered_map
from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.dataset.folder import REJECTED, Workplace
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.dataset.schema import RESPONSES, iter_batches
from dataset_tools.errors import DataError, UsageError
from dataset_tools.images.store import Image

if TYPE_CHECKING:
    from dataset_tools.convert.conversion import Conversion


class Run:
    """The loop of one conversion: what is in the working folder is always as the state says, or newer."""

    def __init__(
        self, conversion: Conversion, place: Workplace, images: Images, advance: Callable[[int], None]
    ):
        self.conversion, self.place, self.images, self.advance = conversion, place, images, advance
        self.settings = conversion.settings
        self.fingerprint = conversion.fingerprint()
        self.ids = IdSet()
        self.digests: list[str] = []
        self.tally, self.shards, self.next_row, self.rejected_bytes = Tally(), 0, 0, 0
        if place.exists():
            self._take_up(place.read_state())
        place.restore(self.shards, self.rejected_bytes)
        self._save()

    def _take_up(self, state: dict[str, Any]) -> None:
        for key, value in self.fingerprint.items():
            if state["fingerprint"].get(key) != value:
                before = state["fingerprint"].get(key)
                if key == "files" and isinstance(before, list):
                    raise UsageError(
                        f"--resume: {changed(before, value)} of the source has changed since this conversion "
                        f"began. Remove {self.place.folder} and start again."
                    )
                raise UsageError(
                    f"--resume: {key} is {value!r} now, but was {before!r} when this conversion began. "
                    f"Use the same settings, or remove {self.place.folder}."
                )
        self.tally = Tally.from_dict(state["tally"])
        self.shards, self.next_row = state["shards"], state["next_row"]
        self.digests = list(state["digests"])
        self.rejected_bytes = state["rejected_bytes"]
        self.advance(self.next_row)

    def _save(self) -> None:
        self.place.write_state(
            {
                "fingerprint": self.fingerprint,
                "tally": self.tally.as_dict(),
                "shards": self.shards,
                "digests": self.digests,
                "next_row": self.next_row,
                "rejected_bytes": self.rejected_bytes,
            }
        )

    def to_the_end(self) -> Tally:
        for index in range(self.shards):
            if file_digest(self.place.shard(index)) != self.digests[index]:
                raise DataError(
                    f"{self.place.shard(index)} is damaged: remove {self.place.folder} and start again."
                )
            for batch in iter_batches(self.place.shard(index), ["id"], batch_size=4096):
                for name in batch.column("id").to_pylist():
                    self.ids.add(name)
        self._writer: ShardWriter | None = None
        settle_pandas()
        chunks = one_ahead(self.conversion.reader.chunks(self.next_row))
        results = ordered_map(self.conversion.annotate, chunks, self.settings.workers)
        with (
            open(self.place.folder / REJECTED, "ab") as self._rejected,
            closing(chunks),
            closing(results),
        ):
            try:
                for chunk, pictures, found in results:
                    if self.settings.limit is not None and chunk.start >= self.settings.limit:
                        break
                    self._chunk(chunk, pictures, found)
                self._close_shard()
            finally:
                if self._writer:
                    self._writer.abandon()
        if not self.tally.rows:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in self.tally.reasons.most_common(3))
            raise DataError(
                f"no row of {self.tally.read} could be used: {reasons or 'all pairs were left out'}. "
                f"{self.place.folder / REJECTED} names them."
            )
        now = identity(self.conversion.located)
        if now != self.conversion.files:
            raise DataError(
                f"{changed(self.conversion.files, now)} of the source was changed while it was read: remove "
                f"{self.place.folder} and start again."
            )
        self.place.finish(self.shards, self.conversion.record(self.tally))
        return self.tally

    def _chunk(self, chunk: Chunk, pictures: Pictures, found: Annotated) -> None:
        table = found.table()
        limit = self.settings.limit
        left = chunk.count if limit is None else limit - chunk.start
        kept: list[int] = []
        images: list[list[Image]] = []
        for offset, row in enumerate(rows_of(chunk, found, pictures, self.images, self.ids, left)):
            tally_row(self.tally, row)
            for name, reason in row.rejected:
                self._reject(name, reason, f"{chunk.file}:{chunk.first + offset}")
            kept += row.kept
            images += row.images
            self.next_row = chunk.start + offset + 1
            if self._shard_rows() + len(kept) >= self.settings.shard_rows:
                self._write(table, kept, images, pictures)
                kept, images = [], []
                self._close_shard()
        self._write(table, kept, images, pictures)
        self.advance(min(chunk.count, left))

    def _reject(self, name: str, reason: str, where: str) -> None:
        line = json.dumps({"id": name, "reason": reason, "row": where}, ensure_ascii=True) + "\n"
        self.rejected_bytes += self._rejected.write(line.encode())

    def _shard_rows(self) -> int:
        return self._writer.rows if self._writer else 0

    def _write(self, table: Any, kept: list[int], images: list[list[Image]], pictures: Pictures) -> None:
        if not kept:
            return
        if self._writer is None:
            path = self.place.shard(self.shards)
            self._writer = ShardWriter(path, self.conversion.source.repeats_images)
        rows = table.take(kept)
        for name in RESPONSES:
            self.tally.sentences += pc.sum(pc.list_value_length(rows.column(f"{name}_sentences"))).as_py()
        sizes = [sum(image.size for image in row) for row in images]
        self._writer.write(with_images(rows, images, pictures), sizes)

    def _close_shard(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
            self.digests.append(file_digest(self.place.shard(self.shards)))
            self.shards += 1
        self._rejected.flush()
        os.fsync(self._rejected.fileno())
        self._save()
