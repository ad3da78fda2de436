"""`convert`: a source dataset to a sentence-annotated one, as a stream, in several processes, resumable.

One process reads and writes, the others split texts into sentences: the images never travel between them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dataset_tools.convert.annotate import Annotate
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.locate import Located, find_images, locate
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.rows import Images, rows_of, tally_row
from dataset_tools.convert.run import Run
from dataset_tools.convert.source_identity import identity
from dataset_tools.convert.tally import Tally
from dataset_tools.dataset.folder import Workplace, is_complete
from dataset_tools.dataset.record import FORMAT, read_record
from dataset_tools.dataset.workplace import settled
from dataset_tools.errors import DataError, UsageError
from dataset_tools.images.store import MAX_PIXELS, ImageStore
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


class Conversion:
    """A source opened and recognised, ready to run."""

    def __init__(self, settings: Settings):
        self.settings = settings
        local = Path(settings.source).expanduser()
        self.out = settled(settings.out, local if os.path.exists(local) else None)
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
        self.files = identity(self.located)
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
            "files": self.files,
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
        with self._images() as images:
            for chunk, pictures in self.reader.chunks():
                found = self.annotate(chunk)
                for row in rows_of(chunk, found, pictures, images, IdSet(), rows - tally.read):
                    tally_row(tally, row)
                    if example is None and row.kept:
                        example = found.table().slice(row.kept[0], 1).to_pylist()[0]
                if tally.read >= rows:
                    break
        return tally, example

    def run(self, advance: Callable[[int], None] = lambda rows: None) -> Tally:
        """Convert everything into OUT. `advance` is told how many rows of the source were done."""
        out = self.out
        place = Workplace(out, self.settings.split)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if self.settings.resume and is_complete(out) and not place.exists():
                return Tally.from_dict(read_record(out)["counts"])
            raise UsageError(f"{out} exists already: choose another OUT, or remove it.")
        if place.exists() and not self.settings.resume:
            raise UsageError(
                f"{place.folder} holds an unfinished conversion: add --resume to go on with it, or remove it."
            )
        with place, self._images() as images:
            if place.is_whole():
                tally = Tally.from_dict(read_record(place.folder)["counts"])
                place.name_for_good()
                return tally
            return Run(self, place, images, advance).to_the_end()

    def _images(self) -> Images:
        return Images(ImageStore(self.located.roots, self.located.archives), self.settings.max_pixels)
