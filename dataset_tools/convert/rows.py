"""What became of each row of a chunk: its pairs with their images, or why it was refused or left out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dataset_tools.convert.annotate import Annotated
from dataset_tools.convert.chunks import Chunk
from dataset_tools.convert.gate import refuses
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.pictures import Pictures
from dataset_tools.convert.tally import Tally, kind_of_reason
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
class Row:
    """One row of the source: pairs kept (their index in the chunk's table); id and reason of the others."""

    kept: list[int]
    images: list[list[Image]]
    rejected: list[tuple[str, str]]
    skipped: list[tuple[str, str]]


def rows_of(
    chunk: Chunk, found: Annotated, pictures: Pictures, images: Images, ids: IdSet, limit: int
) -> Iterator[Row]:
    """The rows of a chunk in order, at most `limit`, each with its pairs' images loaded."""
    names = found.table().column("id").to_pylist()
    refused: dict[int, list[tuple[str, str]]] = {}
    for item in found.rejected:
        refused.setdefault(item.row, []).append((item.id, item.reason))
    left_out: dict[int, list[tuple[str, str]]] = {}
    for item in found.skipped:
        left_out.setdefault(item.row, []).append((item.id, item.reason))
    pair = 0
    for offset in range(min(chunk.count, limit)):
        row = Row([], [], refused.get(offset, []), left_out.get(offset, []))
        while pair < len(names) and found.rows[pair] == offset:
            try:
                loaded = [images.get(image, pictures, chunk.file) for image in found.images[pair]]
                if not ids.add(names[pair]):
                    raise BadRow(DUPLICATE)
                row.kept.append(pair)
                row.images.append(loaded)
            except BadRow as error:
                row.rejected.append((names[pair], str(error)))
            pair += 1
        yield row


def tally_row(tally: Tally, row: Row) -> None:
    """Count what became of a row."""
    tally.read += 1
    tally.kept_rows += bool(row.kept)
    tally.refused_rows += bool(row.rejected and not row.kept)
    tally.left_out_rows += not (row.kept or row.rejected)
    tally.rows += len(row.kept)
    tally.text_only += sum(1 for images in row.images if not images)
    tally.rejected += len(row.rejected)
    tally.reasons.update(kind_of_reason(reason) for _, reason in row.rejected)
    tally.skipped.update(reason for _, reason in row.skipped)
