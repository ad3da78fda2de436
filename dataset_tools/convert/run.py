"""The loop of one conversion: rows are read, annotated and written, and may be stopped at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from dataset_tools.convert.annotate import Annotate, Annotated
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.images_column import with_images
from dataset_tools.convert.pictures import Pictures
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.rows import DUPLICATE, Images, rows_of, tally_row
from dataset_tools.convert.source_identity import changed, file_digest
from dataset_tools.convert.tally import Tally
from dataset_tools.convert.workers import one_ahead, ordered_map
from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.dataset.folder import LEFT_OUT, LOGS, REJECTED, Workplace
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.dataset.schema import RESPONSES, iter_batches
from dataset_tools.errors import DataError, UsageError
from dataset_tools.images.store import Image

if TYPE_CHECKING:
    from dataset_tools.convert.conversion import Conversion

NOT_FOUND = "image file not found"
IMAGES_ELSEWHERE = "Where the images lie elsewhere: --image-root FOLDER, or a zip or tar file."
HINTS = {NOT_FOUND: IMAGES_ELSEWHERE, DUPLICATE: "Ids repeat: --number-rows numbers the rows instead."}
"""What to do about many refused rows, by their reason."""


class Run:
    """The loop of one conversion: what is in the working folder is always as the state says, or newer."""

    def __init__(
        self,
        conversion: Conversion,
        reader: Reader,
        annotate: Annotate,
        place: Workplace,
        images: Images,
        advance: Callable[[int], None],
    ):
        self.conversion, self.reader, self.annotate = conversion, reader, annotate
        self.place, self.images, self.advance = place, images, advance
        self.settings = conversion.settings
        self.fingerprint = conversion.fingerprint()
        self.ids = IdSet()
        self.tally, self.shards, self.next_row = Tally(), 0, 0
        self.log_bytes = dict.fromkeys(LOGS, 0)
        self.digests: list[str] = []
        if place.exists():
            self._take_up(place.read_state())
        place.restore(self.shards, self.log_bytes)
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
        self.log_bytes = dict(state["log_bytes"])
        self.advance(self.next_row)

    def _save(self) -> None:
        self.place.write_state(
            {
                "fingerprint": self.fingerprint,
                "tally": self.tally.as_dict(),
                "shards": self.shards,
                "digests": self.digests,
                "next_row": self.next_row,
                "log_bytes": self.log_bytes,
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
        chunks = one_ahead(self.reader.chunks(self.next_row))
        results = ordered_map(self.annotate, chunks, self.settings.workers)
        with (
            ExitStack() as stack,
            closing(chunks),
            closing(results),
        ):
            self._logs = {
                name: stack.enter_context(open(self.place.folder / name, "ab")) for name in self.log_bytes
            }
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
            raise DataError(f"{no_row_used(self.tally)} {self.place.give_up()}")
        now = self.conversion.identity()
        if now != self.fingerprint["files"]:
            raise DataError(
                f"{changed(self.fingerprint['files'], now)} of the source was changed while it was read: "
                f"remove {self.place.folder} and start again."
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
            where = f"{chunk.file}:{chunk.place(offset)}"
            for name, reason in row.rejected:
                self._log(REJECTED, name, reason, where)
            for name, reason in row.skipped:
                self._log(LEFT_OUT, name, reason, where)
            kept += row.kept
            images += row.images
            self.next_row = chunk.start + offset + 1
            if self._shard_rows() + len(kept) >= self.settings.shard_rows:
                self._write(table, kept, images, pictures)
                kept, images = [], []
                self._close_shard()
        self._write(table, kept, images, pictures)
        self.advance(min(chunk.count, left))

    def _log(self, log: str, name: str, reason: str, where: str) -> None:
        line = json.dumps({"id": name, "reason": reason, "row": where}, ensure_ascii=True) + "\n"
        self.log_bytes[log] += self._logs[log].write(line.encode())

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
        for log in self._logs.values():
            log.flush()
            os.fsync(log.fileno())
        self._save()


def no_row_used(tally: Tally) -> str:
    """Why there is no output, with the most frequent reasons."""
    counted = tally.reasons + tally.skipped
    reasons = "; ".join(f"{reason} ({count})" for reason, count in counted.most_common(3))
    text = f"no row of {tally.read} could be used: {reasons or 'there is no pair'}."
    return f"{text} {IMAGES_ELSEWHERE}" if NOT_FOUND in tally.reasons else text
