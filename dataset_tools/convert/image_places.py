"""Where images given by path are: below `--image-root`, beside the data, in archives, on the Hub."""

from __future__ import annotations

import glob
import json
import logging
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_tools.convert.files import AnyFile, HubFile, readable_size
from dataset_tools.convert.hub import cut_off, download_matching, patiently
from dataset_tools.convert.locate import Located, on_hub
from dataset_tools.errors import DataError, UsageError
from dataset_tools.images.archives import ENDINGS, TarByRange
from dataset_tools.images.store import AnyArchive, ImageStore, open_archive
from dataset_tools.nearest import nearest_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubFolder:
    """The image files of a Hub dataset, each fetched when it is read."""

    repo: str
    revision: str
    names: frozenset[str]

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none of that name."""
        if name not in self.names:
            return None
        from huggingface_hub import hf_hub_download

        with cut_off():
            path = patiently(
                lambda: hf_hub_download(self.repo, name, repo_type="dataset", revision=self.revision)
            )
        return Path(path).read_bytes()


def given_roots(image_roots: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """`--image-root` as folders and archives. Raises `UsageError` for one that is neither."""
    folders, archives = [], []
    for root in image_roots:
        if root.is_dir():
            folders.append(root)
        elif root.is_file() and root.suffix.lower() in (".zip", ".tar"):
            archives.append(root)
        else:
            near = "" if root.exists() else nearest_path(root)
            raise UsageError(f"--image-root {root} is neither a folder nor a zip or tar file.{near}")
    return folders, archives


def image_store(located: Located, image_roots: list[Path], embedded: bool, whole: bool) -> ImageStore:
    """The store for a conversion.

    `embedded`: the rows hold their images, so archives beside the data are left alone. `whole`: the
    conversion reads all rows, so what is on the Hub is downloaded; otherwise only the parts of it that are
    read.
    """
    folders, archives = given_roots(image_roots)
    opened: list[AnyArchive] = [open_archive(path) for path in archives]
    roots: list[Any] = list(folders)
    if located.folder is not None:
        roots.append(located.folder)
    if embedded or (located.hub and image_roots):
        return ImageStore(roots, opened)
    opened += _archives_beside(located, whole)
    loose = [name for name in located.sizes if name.lower().endswith(ENDINGS)]
    if located.folder is None and loose:
        assert located.repo and located.revision
        if whole:
            places = sorted({(PurePosixPath(name).parent, PurePosixPath(name).suffix) for name in loose})
            patterns = [f"{glob.escape(str(parent))}/*{ending}" for parent, ending in places]
            patterns = [pattern.removeprefix("./") for pattern in patterns]
            download_matching(located.repo, located.revision, patterns)
        roots.append(HubFolder(located.repo, located.revision, frozenset(loose)))
    return ImageStore(roots, opened)


def images_to_fetch(
    located: Located, image_roots: list[Path], embedded: bool, read: Iterable[AnyFile]
) -> dict[str, int]:
    """What of a Hub dataset may be fetched for its images: archives, and folders of image files, with bytes.

    An archive that turns out to hold no images stays where it is. `read`: the files of rows, which may lie in
    an archive too.
    """
    if located.folder is not None or embedded or image_roots:
        return {}
    found: dict[str, int] = {}
    rows = {part for file in read for part in on_hub(file)}
    for file in (*located.archives(".zip"), *located.archives(".tar")):
        parts = on_hub(file)
        if parts and not rows.issuperset(parts):
            name = parts[0].path if len(parts) == 1 else f"{file.name} in {len(parts)} parts"
            found[name] = sum(part.size for part in parts)
    for name, size in located.sizes.items():
        if name.lower().endswith(ENDINGS):
            folder = f"{PurePosixPath(name).parent}/"
            found[folder] = found.get(folder, 0) + size
    return found


def _archives_beside(located: Located, whole: bool) -> list[AnyArchive]:
    found: list[AnyArchive] = []
    archive: AnyArchive
    for file in located.archives(".zip"):
        archive = open_archive(file)
        if not archive.holds_images:
            continue  # annotations, videos
        if whole and on_hub(file):
            located.fetch([file])
            archive = open_archive(located.fetched(file))
        found.append(archive)
    for file in located.archives(".tar"):
        archive = _tar(located, file, whole)
        if archive.holds_images:
            found.append(archive)
    return found


def _tar(located: Located, file: AnyFile, whole: bool) -> AnyArchive:
    """A tar file has no table of contents: it is gone through, by ranges where only some rows are read."""

    def fetched() -> AnyFile:
        located.fetch([file])
        return located.fetched(file)

    def after_all() -> AnyFile:
        size = readable_size(sum(part.size for part in on_hub(file)))
        logger.warning("%s (%s) is fetched whole: its beginning does not hold these rows' images", file, size)
        return fetched()

    if whole or not isinstance(file, HubFile):
        return open_archive(fetched())
    try:
        return TarByRange(file, after_all)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{file} is not a whole tar file: {error}.") from None


def image_prefixes(located: Located, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Folders that the images of each file of rows are below, as the `meta.json` of MMPR and its like says.

    `{"name": {"root": "MMPR-v1.2/images/ai2d", "annotation": "MMPR-v1.2/annotations/ai2d.jsonl", ...}}`: the
    first part of a path is the dataset's own folder, which its archives may or may not repeat.
    """
    for place in sorted(located.sizes, key=len):
        if PurePosixPath(place).name != "meta.json":
            continue
        located.fetch([located.file(place)])
        file = located.fetched(located.file(place))
        try:
            with file.open("rb") as stream:
                entries = json.load(stream)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} is not readable JSON: {error}") from None
        found = _prefixes(entries, names)
        if found:
            return found
    return {}


def _prefixes(entries: Any, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    roots: dict[str, tuple[str, ...]] = {}
    for entry in entries.values() if isinstance(entries, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("root"), str):
            continue
        annotation = str(entry.get("annotation", ""))
        matching = [name for name in names if _same_end(name, annotation)]
        for name in matching:
            root = PurePosixPath(entry["root"])
            shorter = PurePosixPath(*root.parts[1:])
            roots[name] = tuple(dict.fromkeys((root.as_posix(), shorter.as_posix())))
    return roots


def _same_end(name: str, annotation: str) -> bool:
    """Whether a file of rows is the one that an entry names, from its own folder on."""
    ours, theirs = PurePosixPath(name).parts, PurePosixPath(annotation).parts
    length = min(len(ours), len(theirs))
    return length > 0 and ours[-length:] == theirs[-length:]
