"""What becomes of each row of a chunk: its pairs with their images, or why it is refused or left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dataset_tools.convert.annotate import Annotated
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.gate import refuses
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.images_column import with_images
from dataset_tools.convert.pictures import Pictures
from dataset_tools.convert.tally import Tally, kind_of_reason
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.dataset.schema import RESPONSES
from dataset_tools.errors import BadRow
from dataset_tools.images.store import Image, ImageStore, check_header
from dataset_tools.sources.images import Embedded, ImageValue

DUPLICATE = "duplicate id"


class Images:
    """The images of a row as bytes, checked; remembers the last one, which the next pair often shares."""

    def __init__(
        self,
        store: ImageStore,
        max_pixels: int,
        prefixes: Mapping[str, tuple[str, ...]] | None = None,
        folders: tuple[str, ...] = (),
    ):
        self._store, self._max_pixels, self._prefixes = store, max_pixels, prefixes or {}
        self._folders = folders
        self._last: tuple[Pictures, ImageValue, Image] | None = None
        self._quiet = warnings.catch_warnings()

    def __enter__(self) -> Images:
        from PIL.Image import DecompressionBombWarning

        self._quiet.__enter__()
        warnings.simplefilter("ignore", DecompressionBombWarning)  # the limit is checked by us
        return self

    def __exit__(self, *_: Any) -> None:
        self._quiet.__exit__(None, None, None)

    @refuses
    def get(self, image: ImageValue, pictures: Pictures, file: str) -> Image:
        """An image of a row of `file`. Raises `BadRow` where it cannot be used."""
        if self._last and self._last[0] is pictures and self._last[1] == image:
            return self._last[2]
        if isinstance(image, Embedded):
            data, path = pictures.get(image.index)
            name = path.replace("\\", "/").rpartition("/")[2] if path else None
            found = Image(data, name, image.index)
        elif isinstance(image, bytes):
            found = Image(image, None)
        else:
            data = self._store.read(image, self._prefixes.get(file, self._folders))
            found = Image(data, self._store.name_of(image))
        check_header(found.data, self._max_pixels)
        self._last = (pictures, image, found)
        return found


@dataclass
class Outcome:
    """One pair of a row, or a row that gives none: kept where there is no `reason`, else refused or left out.

    `place`: of a kept pair, its index in the chunk's table. `image_count` says also where `images` are not
    held how many there are.
    """

    id: str
    reason: str | None = None
    left_out: bool = False
    place: int = -1
    sentences: int = 0
    image_count: int = 0
    images: list[Image] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether it is written."""
        return self.reason is None


def rows_of(
    chunk: Chunk, found: Annotated, pictures: Pictures, images: Images, limit: int
) -> Iterator[list[Outcome]]:
    """The outcomes of each row of a chunk, at most `limit` rows, in order, with the kept pairs' images.

    Nothing of other rows is known here: `refuse_repeated` comes next.
    """
    table = found.table()
    names = table.column("id").to_pylist()
    counts = [pc.list_value_length(table.column(f"{name}_sentences")) for name in RESPONSES]
    sentences = pc.add(*counts).to_pylist()
    apart: dict[int, list[Outcome]] = {}
    for items, left_out in ((found.rejected, False), (found.skipped, True)):
        for item in items:
            apart.setdefault(item.row, []).append(Outcome(item.id, item.reason, left_out))
    pair = 0
    for offset in range(min(chunk.count, limit)):
        row = apart.get(offset, [])
        while pair < len(names) and found.rows[pair] == offset:
            name = names[pair]
            try:
                loaded = [images.get(image, pictures, chunk.file) for image in found.images[pair]]
                row.append(Outcome(name, None, False, pair, sentences[pair], len(loaded), loaded))
            except BadRow as error:
                row.append(Outcome(name, str(error)))
            pair += 1
        yield row


def refuse_repeated(row: list[Outcome], ids: IdSet) -> None:
    """Settle what depends on the rows before: a pair is refused where its id was kept already."""
    for outcome in row:
        if outcome.kept and not ids.add(outcome.id):
            outcome.reason = DUPLICATE


def tally_row(tally: Tally, row: list[Outcome]) -> None:
    """Count what became of a row."""
    kept = [outcome for outcome in row if outcome.kept]
    apart = [(outcome.reason, outcome.left_out) for outcome in row if outcome.reason is not None]
    rejected = [reason for reason, left_out in apart if not left_out]
    tally.read += 1
    tally.kept_rows += bool(kept)
    tally.refused_rows += bool(rejected and not kept)
    tally.left_out_rows += not (kept or rejected)
    tally.rows += len(kept)
    tally.text_only += sum(1 for outcome in kept if not outcome.image_count)
    tally.sentences += sum(outcome.sentences for outcome in kept)
    tally.rejected += len(rejected)
    tally.reasons.update(map(kind_of_reason, rejected))
    tally.skipped.update(reason for reason, left_out in apart if left_out)


def write_pairs(writer: ShardWriter, table: pa.Table, kept: list[Outcome], pictures: Pictures) -> None:
    """Write the kept pairs of a chunk, `table` being its pairs without their images."""
    rows = table.take([outcome.place for outcome in kept])
    images = [outcome.images for outcome in kept]
    sizes = [sum(image.size for image in row) for row in images]
    writer.write(with_images(rows, images, pictures), sizes)
