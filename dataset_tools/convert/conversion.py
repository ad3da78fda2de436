"""`convert`: a source dataset to a sentence-annotated one, as a stream, in several processes, resumable.

One process reads and writes, the others split texts into sentences: the images never travel between them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_tools.convert.annotate import REPEATED, Annotate
from dataset_tools.convert.files import AnyFile
from dataset_tools.convert.ids import IdSet
from dataset_tools.convert.image_places import given_roots, image_prefixes, image_store, images_to_fetch
from dataset_tools.convert.locate import Located, locate
from dataset_tools.convert.provenance import generated_by, known_origin, provenance
from dataset_tools.convert.readers import Reader
from dataset_tools.convert.recognise import recognise
from dataset_tools.convert.rows import Images, refuse_repeated, rows_of, tally_row
from dataset_tools.convert.run import Run
from dataset_tools.convert.source_identity import content_of, identity
from dataset_tools.convert.tally import Tally
from dataset_tools.dataset.folder import Workplace, is_complete
from dataset_tools.dataset.record import FORMAT, read_record
from dataset_tools.dataset.workplace import settled
from dataset_tools.errors import UsageError
from dataset_tools.images.opening import MAX_PIXELS
from dataset_tools.sources import Options, Source
from dataset_tools.sources.origin import Origin

if TYPE_CHECKING:
    from dataset_tools.cluster import Cluster

_SHAPING = ("limit", "pairs", "min_margin", "columns", "number_rows", "keep_repeated_ids", "max_pixels")
"""The settings that `aspo.json` keeps."""


@dataclass
class Settings:
    """What a conversion is asked to do; the fields are the command's options."""

    source: str
    out: Path
    kind: str | None = None
    revision: str | None = None
    split: str = "train"
    config: str | None = None
    files: list[str] = field(default_factory=list)
    limit: int | None = None
    shard_rows: int = 5000
    workers: int = 1
    resume: bool = False
    image_roots: list[Path] = field(default_factory=list)
    options: Options = field(default_factory=Options)
    number_rows: bool = False
    keep_repeated_ids: bool = False
    max_pixels: int = MAX_PIXELS


class Conversion:
    """A source opened and recognised, ready to run; of a Hub dataset, no more was read than this needs."""

    def __init__(self, settings: Settings):
        self.settings = settings
        local = Path(settings.source).expanduser()
        self.out = settled(settings.out, local if os.path.exists(local) else None)
        given_roots(settings.image_roots)
        self.located: Located = locate(settings.source, settings.revision)
        self.recognised = recognise(
            self.located,
            settings.source,
            str(settings.out),
            settings.kind,
            settings.options,
            settings.split,
            settings.config,
            settings.files,
        )
        self.source: Source = self.recognised.source
        self.generated = generated_by(self.located)
        self.origin: Origin | None = known_origin(self.located, self.generated)
        self._prepared: tuple[Reader, Annotate] | None = None

    @property
    def files(self) -> dict[str, int]:
        """The files that are read, with their bytes."""
        return {name: file.stat().st_size for file, name in self.recognised.files}

    @property
    def left_files(self) -> dict[str, str]:
        """The data files that are not read, with the reason."""
        return self.recognised.left

    @property
    def images_to_fetch(self) -> dict[str, int]:
        """What of a Hub dataset may be fetched for its images beside the files of rows, with the bytes."""
        read = [file for file, _ in self.recognised.files]
        roots, embedded = self.settings.image_roots, self.recognised.embeds_images
        return images_to_fetch(self.located, roots, embedded, read)

    @property
    def total(self) -> int | None:
        """Rows to read, where that is known beforehand; asked after `prepare`."""
        limit = self.settings.limit
        total = self._prepared[0].total if self._prepared else None
        return limit if total is None else min(total, limit or total)

    @property
    def total_rows(self) -> int | None:
        """Rows of the source, where its files say it in themselves or are small enough to be counted."""
        files: list[tuple[AnyFile, str]] = self.recognised.files
        here = all(isinstance(file, Path) or file.suffix == ".parquet" for file, _ in files)
        total = Reader(files).total if here else None
        limit = self.settings.limit
        return total if total is None or limit is None else min(total, limit)

    def prepare(self) -> None:
        """Download what the conversion reads, and look for ids that repeat where that matters."""
        if not self._prepared and not self.check_out():
            if self.settings.limit is None:
                self.located.fetch([file for file, _ in self.recognised.files])
            self._prepared = self._reading(self.settings.limit)

    def _reading(self, limit: int | None) -> tuple[Reader, Annotate]:
        files: list[tuple[AnyFile, str]] = self.recognised.files
        if limit is None:
            files = [(self.located.fetched(file), name) for file, name in files]
        reader = Reader(files, limit)
        annotate = Annotate(
            self.source.name,
            self.source.options,
            self.settings.number_rows,
            self._name(),
            keep_repeated=self.settings.keep_repeated_ids,
        )
        if self.source.pictures_by:
            annotate = replace(annotate, repeated=_repeated(reader, self.source.pictures_by))
        return reader, annotate

    def _images(self, whole: bool) -> Images:
        store = image_store(self.located, self.settings.image_roots, self.recognised.embeds_images, whole)
        prefixes = image_prefixes(self.located, [name for _, name in self.recognised.files])
        folders = self.recognised.source.image_folders
        return Images(store, self.settings.max_pixels, prefixes, folders)

    def identity(self) -> list[list[Any]]:
        """What tells whether the files that are read are still the same ones."""
        files: list[tuple[AnyFile, str]] = [
            (self.located.fetched(file), name) for file, name in self.recognised.files
        ]
        if not self.located.hub and not self.recognised.embeds_images:
            beside = [*self.located.archives(".zip"), *self.located.archives(".tar")]
            files += [(file, file.name) for file in beside]
        given = [(root, root.name) for root in self.settings.image_roots if root.is_file()]
        found = identity(files, pinned=self.located.hub) + identity(given)
        if not self.located.hub and not self.recognised.embeds_images:
            names, times = self.located.pictures
            found.append(["a picture", names, times])
        return found

    def fingerprint(self) -> dict[str, Any]:
        """All that shapes the output: a conversion may be resumed only under the same."""
        from dataset_tools.sentences import SPLITTER_VERSION

        return {
            **self._asked(),
            "files": self.identity(),
            "shard_rows": self.settings.shard_rows,
            "image_roots": [str(root) for root in self.settings.image_roots],
            "splitter": SPLITTER_VERSION,
            "version": version("aspo-plugin"),
        }

    def _asked(self) -> dict[str, Any]:
        """Of the fingerprint, what `aspo.json` tells as well."""
        settings, options = self.settings, self.source.options
        return {
            "source": self.located.location,
            "revision": self.located.revision,
            "from": self.source.name,
            "split": settings.split,
            "config": settings.config,
            "limit": settings.limit,
            "pairs": options.pairs,
            "min_margin": options.min_margin,
            "columns": dict(options.columns),
            "number_rows": settings.number_rows,
            "keep_repeated_ids": settings.keep_repeated_ids,
            "max_pixels": settings.max_pixels,
        }

    def record(self, tally: Tally) -> dict[str, Any]:
        """What `aspo.json` says."""
        from dataset_tools.sentences import SPLITTER_VERSION

        fingerprint = self.fingerprint()
        return {
            "format": FORMAT,
            "source": {
                "name": self._name(),
                "layout": self.source.name,
                "location": self.located.location,
                "revision": self.located.revision,
                "split": self.settings.split,
                "config": self.settings.config,
                **provenance(self.located, self.origin, self.generated),
                "files": list(self.files),
                "content": content_of(fingerprint["files"]),
                "files_not_read": self.left_files,
            },
            "tool": {"name": "aspo-plugin", "version": fingerprint["version"]},
            "splitter": {"name": "aspo-sentences", "version": SPLITTER_VERSION},
            "scorer": None,
            "generated": self.generated,
            "options": {key: fingerprint[key] for key in _SHAPING},
            "counts": tally.as_dict(),
        }

    def _name(self) -> str:
        """What the rows are of: generated answers are not of the dataset whose prompts were asked."""
        return self.origin.name if self.origin and not self.generated else self.located.location

    def preview(self, rows: int) -> tuple[Tally, dict[str, Any] | None]:
        """Convert the first `rows` rows without writing anything; the counts and an example."""
        tally, example, ids = Tally(), None, IdSet()
        rows = min(rows, self.settings.limit or rows)
        reader, annotate = self._reading(rows)
        with self._images(whole=False) as images:
            for chunk, pictures in reader.chunks():
                found = annotate(chunk)
                for row in rows_of(chunk, found, pictures, images, rows - tally.read):
                    refuse_repeated(row, ids)
                    tally_row(tally, row)
                    kept = next((outcome.place for outcome in row if outcome.kept), None)
                    if example is None and kept is not None:
                        example = found.table().slice(kept, 1).to_pylist()[0]
                if tally.read >= rows:
                    break
        return tally, example

    def check_out(self) -> Tally | None:
        """The counts of an OUT that `--resume` finds whole. Raises `UsageError` where OUT is in the way."""
        out, place = self.out, Workplace(self.out, self.settings.split)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            if self.settings.resume and is_complete(out) and not place.exists():
                record = read_record(out)
                self._check_same(record)
                return Tally.from_dict(record["counts"])
            raise UsageError(f"{out} exists already: choose another OUT, or remove it.")
        if place.exists() and not self.settings.resume:
            raise UsageError(
                f"{place.folder} holds an unfinished conversion: add --resume to go on with it, or remove it."
            )
        return None

    def _check_same(self, record: dict[str, Any]) -> None:
        """Raise `UsageError` where a whole OUT was made of something else, or with other settings."""
        source = record["source"]
        before = {**source, "source": source.get("location"), "from": source.get("layout")}
        before |= record.get("options", {})
        for key, value in {**self._asked(), "files": list(self.files)}.items():
            if key in before and before[key] != value:
                raise UsageError(
                    f"--resume: {key} is {value!r} now, but {self.out} was made with {before[key]!r}. "
                    "Use the same settings, choose another OUT, or remove it."
                )
        if before.get("content", content := content_of(self.identity())) != content:
            raise UsageError(
                f"--resume: {self.out} was made of other files of the same names as those of "
                f"{self.settings.source}: choose another OUT, or remove it."
            )

    def check_cluster(self) -> None:
        """Raise `UsageError` for what a cluster does not do."""
        if self.settings.limit is not None and self.located.hub:
            raise UsageError(
                "--limit reads a Hub dataset in parts, which --engine ray does not: leave one of the two out."
            )

    def run(
        self,
        advance: Callable[[int], None] = lambda rows: None,
        cluster: Cluster | None = None,
        stage: Callable[[str, str, int], None] = lambda name, unit, total: None,
    ) -> Tally:
        """Convert everything into OUT.

        `advance` is told how many rows of the source were done. With a `cluster` its machines do the work, of
        which `stage` is told what is done next, in what unit and how many; OUT is the same.
        """
        tally = self.check_out()
        if tally:
            return tally
        place = Workplace(self.out, self.settings.split)
        self.prepare()
        assert self._prepared
        with self._images(whole=self.settings.limit is None) as images, place:
            if place.is_whole():
                record = read_record(place.folder)
                self._check_same(record)
                tally = Tally.from_dict(record["counts"])
                place.name_for_good()
                return tally
            if cluster is not None:
                from dataset_tools.convert.cluster_run import ClusterRun

                return ClusterRun(self, *self._prepared, place, cluster, advance, stage).to_the_end()
            return Run(self, *self._prepared, place, images, advance).to_the_end()


def _repeated(reader: Reader, column: str) -> frozenset[str]:
    """The values of a column that several rows have."""
    seen: Counter[str] = Counter(str(value) for value in reader.values(column) if value is not None)
    return frozenset(value for value, count in seen.items() if count > 1)


__all__ = ["REPEATED", "Conversion", "Settings", "Tally"]
