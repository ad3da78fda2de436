"""`convert`: a source dataset to a sentence-annotated one, as a stream, in several processes, resumable.

One process reads and writes, the others split texts into sentences: the images never travel between them.
"""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from dataset_tools.convert.annotate import Annotate, Annotated
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.images_column import with_images
from dataset_tools.convert.locate import Located, find_images, locate
from dataset_tools.convert.readers import Chunk, Pictures, Reader
from dataset_tools.convert.workers import one_ahead, ordered_map
from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.dataset.folder import REJECTED, Workplace, is_complete
from dataset_tools.dataset.parquet import ShardWriter
from dataset_tools.dataset.record import FORMAT, read_record
from dataset_tools.dataset.schema import RESPONSES, iter_batches
from dataset_tools.errors import BadRow, DataError, UsageError
from dataset_tools.images.store import MAX_PIXELS, Image, ImageStore, check_header
from dataset_tools.sources import Options, Source, check_columns, recognise, source_class


@dataclass
class Settings:
    """What a conversion is asked to do; the fields are the command's options."""

    source: str
    out: Path
    kind: str | None = None
    revision: str | None = None
    split: str = "train"
    limit: int | None = None
    shard_rows: int = 5000
    workers: int = 1
    resume: bool = False
    image_roots: list[Path] = field(default_factory=list)
    options: Options = field(default_factory=Options)
    number_rows: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass
class Tally:
    """Counts of a conversion so far."""

    read: int = 0
    rows: int = 0
    rejected: int = 0
    sentences: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For the record and the state."""
        return {
            "read": self.read,
            "rows": self.rows,
            "rejected": self.rejected,
            "sentences": self.sentences,
            "reasons": dict(sorted(self.reasons.items())),
            "skipped": dict(sorted(self.skipped.items())),
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Tally:
        """The counts of a state."""
        return cls(**{**value, "reasons": Counter(value["reasons"]), "skipped": Counter(value["skipped"])})

    def bad_share(self) -> float:
        """Rejected rows among all that were rejected or written."""
        return self.rejected / max(self.rejected + self.rows, 1)


def kind_of_reason(reason: str) -> str:
    """A reason without the particulars of its row, for counting: what stands before a colon or a quote."""
    return reason.partition(":")[0].partition(" '")[0]


class Conversion:
    """A source opened and recognised, ready to run."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.located: Located = locate(settings.source, settings.revision, settings.split)
        self.reader = Reader(self.located.files)
        columns = self.reader.sample()
        where = self.located.files[0][1]
        if not columns:
            raise DataError(f"{where} holds no rows.")
        mapped = bool(settings.options.columns)
        if settings.kind:
            kind = source_class(settings.kind)
        else:
            kind = source_class("jsonl") if mapped else recognise(columns, where)
        self.options = settings.options
        if kind.name == "llamafactory":
            from dataset_tools.sources.llamafactory import options_beside

            self.options = options_beside(self.located.files[0][0], settings.options)
        self.source: Source = kind(self.options)
        check_columns(self.source, columns, where)
        find_images(self.located, settings.image_roots, kind.archives)
        self.annotate = Annotate(kind.name, self.options, settings.number_rows)

    @property
    def total(self) -> int | None:
        """Rows to read, where that is known beforehand."""
        total, limit = self.reader.total, self.settings.limit
        return min(total, limit) if total is not None and limit is not None else total

    def fingerprint(self) -> dict[str, Any]:
        """All that shapes the output: a conversion may be resumed only under the same."""
        from dataset_tools.sentences import SPLITTER_VERSION

        settings = self.settings
        return {
            "source": self.located.location,
            "revision": self.located.revision,
            "files": [[name, os.path.getsize(path)] for path, name in self.located.files],
            "from": self.source.name,
            "split": settings.split,
            "limit": settings.limit,
            "shard_rows": settings.shard_rows,
            "pairs": self.options.pairs,
            "min_margin": self.options.min_margin,
            "columns": dict(self.options.columns),
            "number_rows": settings.number_rows,
            "max_pixels": settings.max_pixels,
            "image_roots": [str(root) for root in settings.image_roots],
            "splitter": SPLITTER_VERSION,
            "version": version("aspo-plugin"),
        }

    def record(self, tally: Tally) -> dict[str, Any]:
        """What `aspo.json` says."""
        from dataset_tools.sentences import SPLITTER_VERSION

        fingerprint = self.fingerprint()
        shaping = ("limit", "pairs", "min_margin", "columns", "number_rows", "max_pixels")
        return {
            "format": FORMAT,
            "source": {
                "name": self.source.name,
                "location": self.located.location,
                "revision": self.located.revision,
                "split": self.settings.split,
                "license": self.located.license or self.source.license,
                "citation": self.source.citation,
                "url": self._url(),
            },
            "tool": {"name": "aspo-plugin", "version": fingerprint["version"]},
            "splitter": {"name": "aspo-sentences", "version": SPLITTER_VERSION},
            "scorer": None,
            "options": {key: fingerprint[key] for key in shaping},
            "counts": tally.as_dict(),
        }

    def _url(self) -> str | None:
        if self.located.hub:
            return f"https://huggingface.co/datasets/{self.located.location}"
        return self.source.url

    def preview(self, rows: int) -> tuple[Tally, dict[str, Any] | None]:
        """Convert the first `rows` rows without writing anything; the counts and an example."""
        tally, example = Tally(), None
        rows = min(rows, self.settings.limit or rows)
        with _Images(self) as images:
            for chunk, pictures in self.reader.chunks():
                found = self.annotate(chunk)
                for row in _rows(chunk, found, pictures, images, IdSet(), rows - tally.read):
                    tally_row(tally, row)
                    if example is None and row.kept:
                        example = found.table().slice(row.kept[0], 1).to_pylist()[0]
                if tally.read >= rows:
                    break
        return tally, example

    def run(self, advance: Callable[[int], None] = lambda rows: None) -> Tally:
        """Convert everything into OUT. `advance` is told how many rows of the source were done."""
        out = self.settings.out
        place = Workplace(out, self.settings.split)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if self.settings.resume and is_complete(out) and not place.exists():
                return Tally.from_dict(read_record(out)["counts"])
            raise UsageError(f"{out} exists already: choose another OUT, or remove it.")
        if place.exists() and not self.settings.resume:
            raise UsageError(
                f"{place.folder} holds an unfinished conversion: add --resume to go on with it, or remove it."
            )
        with place, _Images(self) as images:
            if place.is_whole():
                tally = Tally.from_dict(read_record(place.folder)["counts"])
                place.name_for_good()
                return tally
            return _Run(self, place, images, advance).to_the_end()


class _Images:
    """The images of a row as bytes, checked; remembers the last one, which the next pair often shares."""

    def __init__(self, conversion: Conversion):
        located = conversion.located
        self._store = ImageStore(located.roots, located.archives)
        self._max_pixels = conversion.settings.max_pixels
        self._last: tuple[Pictures, int | str, Image] | None = None
        self._quiet = warnings.catch_warnings()

    def __enter__(self) -> _Images:
        from PIL.Image import DecompressionBombWarning

        self._quiet.__enter__()
        warnings.simplefilter("ignore", DecompressionBombWarning)  # the limit is checked by us
        return self

    def __exit__(self, *_: Any) -> None:
        self._quiet.__exit__(None, None, None)

    def get(self, image: int | str, pictures: Pictures) -> Image:
        if self._last and self._last[0] is pictures and self._last[1] == image:
            return self._last[2]
        if isinstance(image, int):
            data, path = pictures.get(image)
            name = path.replace("\\", "/").rpartition("/")[2] if path else None
            found = Image(data, name, image)
        else:
            found = Image(self._store.read(image), image)
        check_header(found.data, self._max_pixels)
        self._last = (pictures, image, found)
        return found


@dataclass
class _Row:
    """What became of one row of the source: pairs kept (their index in the chunk's table), and refused."""

    kept: list[int]
    images: list[list[Image]]
    rejected: list[tuple[str, str]]
    skipped: list[str]


def _rows(chunk: Chunk, found: Annotated, pictures: Pictures, images: _Images, ids: IdSet, limit: int) -> Any:
    """The rows of a chunk in order, at most `limit`, each with its pairs' images loaded."""
    names = found.table().column("id").to_pylist()
    refused: dict[int, list[tuple[str, str]]] = {}
    for item in found.rejected:
        refused.setdefault(item.row, []).append((item.id, item.reason))
    left_out: dict[int, list[str]] = {}
    for number, reason in found.skipped:
        left_out.setdefault(number, []).append(reason)
    pair = 0
    for offset in range(min(chunk.count, limit)):
        row = _Row([], [], refused.get(offset, []), left_out.get(offset, []))
        while pair < len(names) and found.rows[pair] == offset:
            try:
                loaded = [images.get(image, pictures) for image in found.images[pair]]
                if not ids.add(names[pair]):
                    raise BadRow("duplicate id")
                row.kept.append(pair)
                row.images.append(loaded)
            except BadRow as error:
                row.rejected.append((names[pair], str(error)))
            pair += 1
        yield row


def tally_row(tally: Tally, row: _Row) -> None:
    """Count what became of a row."""
    tally.read += 1
    tally.rows += len(row.kept)
    tally.rejected += len(row.rejected)
    tally.reasons.update(kind_of_reason(reason) for _, reason in row.rejected)
    tally.skipped.update(row.skipped)


class _Run:
    """The loop of one conversion: what is in the working folder is always as the state says, or newer."""

    def __init__(
        self, conversion: Conversion, place: Workplace, images: _Images, advance: Callable[[int], None]
    ):
        self.conversion, self.place, self.images, self.advance = conversion, place, images, advance
        self.settings = conversion.settings
        self.fingerprint = conversion.fingerprint()
        self.ids = IdSet()
        self.tally, self.shards, self.next_row, self.rejected_bytes = Tally(), 0, 0, 0
        if place.exists():
            self._take_up(place.read_state())
        place.restore(self.shards, self.rejected_bytes)
        self._save()

    def _take_up(self, state: dict[str, Any]) -> None:
        for key, value in self.fingerprint.items():
            if state["fingerprint"].get(key) != value:
                before = state["fingerprint"].get(key)
                raise UsageError(
                    f"--resume: {key} is {value!r} now, but was {before!r} when this conversion began. "
                    f"Use the same settings, or remove {self.place.folder}."
                )
        self.tally = Tally.from_dict(state["tally"])
        self.shards, self.next_row = state["shards"], state["next_row"]
        self.rejected_bytes = state["rejected_bytes"]
        self.advance(self.next_row)

    def _save(self) -> None:
        self.place.write_state(
            {
                "fingerprint": self.fingerprint,
                "tally": self.tally.as_dict(),
                "shards": self.shards,
                "next_row": self.next_row,
                "rejected_bytes": self.rejected_bytes,
            }
        )

    def to_the_end(self) -> Tally:
        for index in range(self.shards):
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
        self.place.finish(self.shards, self.conversion.record(self.tally))
        return self.tally

    def _chunk(self, chunk: Chunk, pictures: Pictures, found: Annotated) -> None:
        table = found.table()
        limit = self.settings.limit
        left = chunk.count if limit is None else limit - chunk.start
        kept: list[int] = []
        images: list[list[Image]] = []
        for offset, row in enumerate(_rows(chunk, found, pictures, self.images, self.ids, left)):
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
            self.shards += 1
        self._rejected.flush()
        os.fsync(self._rejected.fileno())
        self._save()
