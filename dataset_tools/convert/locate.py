"""Where a source is: a file, a folder, a dataset on the Hub; all its files with their sizes, and its card."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.convert.files import AnyFile, HubFile, Joined, ZipMember
from dataset_tools.convert.hub import cached, download, look_up, parse_address
from dataset_tools.errors import UsageError
from dataset_tools.images.archives import ENDINGS
from dataset_tools.nearest import nearly_here, not_here
from dataset_tools.sources.origin import CARD, cached_repository, card_header, is_of_dataset

GENERATED = "generate.json"
"""The record of generated pairs, beside their `data`."""
_PART = re.compile(r"(?P<whole>.+\.(?:zip|tar))(?:_|\.)(?P<part>[a-z]{1,3}|part[-_.]?\w+|\d{2,4})", re.I)


@dataclass
class Located:
    """A source before any of its rows is read."""

    location: str
    """The Hub id, or the name of the file or folder."""
    sizes: dict[str, int]
    """All files there, data or not, relative to its folder, with their bytes."""
    folder: Path | None = None
    """None for a dataset on the Hub that is not on this disk."""
    repo: str | None = None
    revision: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    """What the address itself asks for: one file, or what lies in one folder."""
    stale: frozenset[str] = frozenset()
    """Files that `save_to_disk` of an earlier version left, which the folder's `state.json` does not name."""
    pictures: tuple[str, str] = ("", "")
    """Of a folder on this disk: a digest of its image files' names and sizes, and one of their times."""
    above: Path | None = None
    """The dataset's own folder, with its card and record, where its `data` or a file in that was given."""

    @property
    def splits(self) -> dict[str, Any]:
        """The card where it names the files of each split; a part of a dataset was asked for by its name."""
        return {} if self.patterns or self.above else self.card

    @property
    def generated(self) -> AnyFile | None:
        """The record of generated pairs, if it is there."""
        if self.above:
            return self.above / GENERATED if (self.above / GENERATED).is_file() else None
        asked_for = all(pattern.startswith("data/") for pattern in self.patterns)
        return self.file(GENERATED) if GENERATED in self.sizes and asked_for else None

    @property
    def hub(self) -> bool:
        """Whether the source was named by its place on the Hub."""
        return self.repo is not None

    def file(self, name: str) -> AnyFile:
        """A file of the source, where it is: on this disk, in the Hub's cache, or on the Hub."""
        if self.folder is not None:
            return self.folder / name
        assert self.repo and self.revision
        return cached(self.repo, self.revision, name) or HubFile(
            name, self.sizes[name], self.repo, self.revision
        )

    def fetched(self, file: AnyFile) -> AnyFile:
        """The same file on this disk; what is on the Hub has to be downloaded first (`fetch`)."""
        if isinstance(file, HubFile):
            return self.file(file.path)
        if isinstance(file, ZipMember):
            return replace(file, archive=self.fetched(file.archive))
        if isinstance(file, Joined):
            return Joined(tuple(self.fetched(part) for part in file.parts), file.name)
        return file

    def fetch(self, files: list[AnyFile]) -> None:
        """Download what of the files is on the Hub."""
        names = sorted({part.path for file in files for part in on_hub(file)})
        if names:
            assert self.repo and self.revision
            # For the licence and the model that wrote the answers, where they are read offline.
            beside = [name for name in (CARD, GENERATED) if name in self.sizes]
            download(self.repo, self.revision, names + beside)

    def archives(self, ending: str) -> list[AnyFile]:
        """Its zip (or tar) files; one that lies in parts (`images.zip_a`, `images.zip.001`) as one."""
        found: list[AnyFile] = [
            self.file(name)
            for name in sorted(self.sizes)
            if name.lower().endswith(ending) and not _hidden(name)
        ]
        parts: dict[str, list[str]] = {}
        for name in sorted(self.sizes):
            match = _PART.fullmatch(name)
            if match and match["whole"].lower().endswith(ending) and match["whole"] not in self.sizes:
                parts.setdefault(match["whole"], []).append(name)
        for whole, names in parts.items():
            found.append(Joined(tuple(self.file(name) for name in names), PurePosixPath(whole).name))
        return found


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def on_hub(file: AnyFile) -> list[HubFile]:
    """The files of the Hub that a file is made of; none where it is on this disk."""
    if isinstance(file, HubFile):
        return [file]
    if isinstance(file, ZipMember):
        return on_hub(file.archive)
    if isinstance(file, Joined):
        return [each for part in file.parts for each in on_hub(part)]
    return []


def locate(source: str, revision: str | None) -> Located:
    """Find a source and what lies there; of a Hub dataset the list of files only."""
    path = Path(source).expanduser()
    if path.exists():
        if revision:
            raise UsageError(f"--revision is for a dataset on the Hub, but {source} is on this disk.")
        return _local(path)
    address = parse_address(source)
    if address is None:
        if problem := _nowhere(source):
            raise UsageError(problem)
        address = (source, None, None)
    repo, stated, inside = address
    if stated and revision and stated != revision:
        raise UsageError(f"--revision is {revision}, but the address asks for {stated}.")
    try:
        listing = look_up(repo, revision or stated)
    except Exception as error:
        near = nearly_here(source)
        if near and type(error).__name__ in ("RepositoryNotFoundError", "OfflineModeIsEnabled", "DataError"):
            raise UsageError(f"{source} does not exist here, and the Hub gave none.{near}") from error
        raise
    patterns: tuple[str, ...] = ()
    if inside:
        patterns = (inside,) if inside in listing.sizes else (f"{inside}/*",)
    return Located(
        location=repo,
        sizes=listing.sizes,
        folder=listing.offline,
        repo=repo,
        revision=listing.revision,
        card=listing.card,
        patterns=patterns,
    )


def _nowhere(source: str) -> str | None:
    """Why a source that is no path here cannot be on the Hub either; None where it may be."""
    if "://" in source:
        return (
            f"{source} is not an address of a dataset on the Hub, which are hf://datasets/owner/name and "
            "https://huggingface.co/datasets/owner/name; give one, owner/name, or a file or folder."
        )
    return not_here(source)


def _local(path: Path) -> Located:
    path = path.absolute()
    folder = path if path.is_dir() else path.parent
    items = folder.rglob("*") if path.is_dir() else folder.iterdir()
    found = {item.relative_to(folder).as_posix(): item.stat() for item in sorted(items) if item.is_file()}
    sizes = {name: status.st_size for name, status in found.items()}
    cached_as = cached_repository(folder.resolve())
    card = card_header(folder / CARD)
    above = None if card else _dataset_above(folder)
    return Located(
        location=cached_as[0] if cached_as else above.name if above else path.name,
        sizes=sizes,
        folder=folder,
        revision=cached_as[1] if cached_as else None,
        card=card_header(above / CARD) if above else card,
        above=above,
        patterns=() if path.is_dir() else (path.name,),
        stale=_stale(folder, sizes),
        pictures=_pictures(found) if path.is_dir() else ("", ""),
    )


def _dataset_above(folder: Path) -> Path | None:
    """The folder above one named `data`, where a dataset's card or the record of generated pairs lies."""
    above = folder.parent
    if folder.name != "data":
        return None
    if (above / GENERATED).is_file() or is_of_dataset(card_header(above / CARD)):
        return above
    return None


def _pictures(found: dict[str, os.stat_result]) -> tuple[str, str]:
    names, times = blake2b(digest_size=16), blake2b(digest_size=16)
    for name, status in found.items():
        if name.lower().endswith(ENDINGS):
            names.update(f"{name}\0{status.st_size}\0".encode("utf-8", "surrogateescape"))
            times.update(f"{status.st_mtime_ns}\0".encode())
    return names.hexdigest(), times.hexdigest()


def _stale(folder: Path, sizes: dict[str, int]) -> frozenset[str]:
    """Arrow files beside a `state.json` of the datasets library that it does not name."""
    found = set()
    for name in sizes:
        if PurePosixPath(name).name != "state.json":
            continue
        parent = PurePosixPath(name).parent
        try:
            state = json.loads((folder / name).read_text(encoding="utf-8"))
            kept = {item["filename"] for item in state["_data_files"]}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        found |= {
            other
            for other in sizes
            if PurePosixPath(other).parent == parent
            and other.endswith(".arrow")
            and PurePosixPath(other).name not in kept
        }
    return frozenset(found)
