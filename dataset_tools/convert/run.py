"""The loop of one conversion: rows are read, annotated and written, and may be stopped at any moment."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

from dataset_tools.convert.annotate import Annotate, Annotated
from dataset_tools.convert.begun import Begun
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.pictures import Pictures
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.rows import Images, Outcome, rows_of, write_pairs
from dataset_tools.convert.source_identity import file_digest
from dataset_tools.convert.tally import Tally
from dataset_tools.convert.workers import one_ahead, ordered_map
from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.dataset.folder import Workplace
from dataset_tools.dataset.parquet import ShardWriter

if TYPE_CHECKING:
    from dataset_tools.convert.conversion import Conversion


class Run(Begun):
    """The loop on this machine: shards are finished one after the other."""

    def __init__(
        self,
        conversion: Conversion,
        reader: Reader,
        annotate: Annotate,
        place: Workplace,
        images: Images,
        advance: Callable[[int], None],
    ):
        super().__init__(conversion, place, advance)
        self.reader, self.annotate, self.images = reader, annotate, images
        self._writer: ShardWriter | None = None

    def to_the_end(self) -> Tally:
        """Do all that is left, and make OUT."""
        self.read_ids()
        settle_pandas()
        chunks = one_ahead(self.reader.chunks(self.next_row))
        results = ordered_map(self.annotate, chunks, self.settings.workers)
        with self.listing(), closing(chunks), closing(results):
            try:
                for chunk, pictures, found in results:
                    if self.settings.limit is not None and chunk.start >= self.settings.limit:
                        break
                    self._chunk(chunk, pictures, found)
                self._close_shard()
            finally:
                if self._writer:
                    self._writer.abandon()
        return self.finish()

    def _chunk(self, chunk: Chunk, pictures: Pictures, found: Annotated) -> None:
        limit = self.settings.limit
        left = chunk.count if limit is None else limit - chunk.start
        kept: list[Outcome] = []
        for offset, row in enumerate(rows_of(chunk, found, pictures, self.images, left)):
            kept += self.settle(row, f"{chunk.file}:{chunk.place(offset)}")
            self.next_row = chunk.start + offset + 1
            if self._shard_rows() + len(kept) >= self.settings.shard_rows:
                self._write(found, kept, pictures)
                kept = []
                self._close_shard()
        self._write(found, kept, pictures)
        self.advance(min(chunk.count, left))

    def _shard_rows(self) -> int:
        return self._writer.rows if self._writer else 0

    def _write(self, found: Annotated, kept: list[Outcome], pictures: Pictures) -> None:
        if kept and self._writer is None:
            path = self.place.shard(self.shards)
            self._writer = ShardWriter(path, self.conversion.source.repeats_images)
        if kept and self._writer:
            write_pairs(self._writer, found.table(), kept, pictures)

    def _close_shard(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
            self.digests.append(file_digest(self.place.shard(self.shards)))
            self.shards += 1
        self.sync_lists()
        self.save()
