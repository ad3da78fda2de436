"""Images as encoded bytes: found below the image root, and checked by their headers without decoding them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa

from dataset_tools.errors import BadRow, DataError
from dataset_tools.images.archives import ENDINGS, Archive, TarArchive, TarByRange
from dataset_tools.images.opening import MAX_BYTES, MAX_PIXELS, UnusableImage, file_bytes, open_undecoded

AnyArchive: TypeAlias = Archive | TarArchive | TarByRange


@dataclass
class Image:
    """One image of a row: its encoded bytes, a name for it, and its place if it is embedded in the chunk."""

    data: bytes | pa.Buffer
    path: str | None
    index: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.size


def check_header(data: bytes | pa.Buffer, max_pixels: int = MAX_PIXELS) -> None:
    """Raise `BadRow` where the bytes are no image, are visibly cut short, or hold too many pixels.

    Nothing is decoded. Callers silence Pillow's `DecompressionBombWarning`: the limit is checked here.
    """
    buffer = pa.py_buffer(data)
    if not buffer.size:
        raise BadRow("the image is empty")
    try:
        with open_undecoded(buffer, max_pixels) as image:
            kind = image.format
    except UnusableImage as error:
        raise BadRow(f"{error.kind}: {error}") from None
    if _is_cut(memoryview(buffer), kind):
        raise BadRow(f"the image is cut short: the end of the {kind} data is missing")


def _is_cut(data: memoryview, kind: str | None) -> bool:
    tail = bytes(data[-4096:])
    if kind in ("JPEG", "MPO"):
        if tail.endswith(b"\xff\xd9"):
            return False
        # The end mark cannot occur inside a scan, only in what comes before one (a thumbnail) or after it.
        whole = bytes(data)
        return whole.rfind(b"\xff\xd9") < whole.rfind(b"\xff\xda")
    if kind == "PNG":
        return b"IEND" not in tail
    if kind == "GIF":
        return b";" not in tail
    if kind == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return False


class ImageStore:
    """Images given by path: below folders, or as members of zip and tar files; never the first of several.

    A path that climbs out with `..`, or is absolute and not below a folder of the store, is refused. Members
    of archives are read, never extracted. A root is a folder, or anything with `read(name)`.
    """

    def __init__(self, roots: Sequence[Any], archives: Sequence[AnyArchive] = ()):
        self.roots = list(
            dict.fromkeys(root for root in roots if not isinstance(root, Path) or root.is_dir())
        )
        folders = [root for root in self.roots if isinstance(root, Path)]
        self._real = {root: (os.path.realpath(root) + os.sep, *_hub_cache()) for root in folders}
        self._archives = list(archives)

    def read(self, path: str, below: Sequence[str] = ()) -> bytes:
        """The bytes of an image. Raises `BadRow` where it is missing, unreadable, ambiguous or outside the
        roots.

        `below`: folders of the store that the path starts in, tried in order; without any, it starts at a
        root.
        """
        pure, roots = self._inside(path)
        for folder in below or ("",):
            whole = PurePosixPath(folder) / pure
            names = [str(whole)]
            if whole.suffix.lower() not in ENDINGS:
                names += [f"{whole}{ending}" for ending in ENDINGS]
            for name in names:
                data = self._only(name, roots)
                if data is not None:
                    return data
        raise BadRow(f"image file not found: {shortened(path)}")

    def name_of(self, path: str) -> str:
        """The path as it is published: an absolute one without the folders of this machine above its root."""
        return str(self._inside(path)[0])

    def _inside(self, path: str) -> tuple[PurePosixPath, list[Any]]:
        """The path relative to the roots that it is below."""
        pure = PurePosixPath(path.replace("\\", "/"))
        outside = BadRow(f"the image path leaves the image root: {shortened(path)!r}")
        if ".." in pure.parts or "\0" in path:
            raise outside
        if pure.is_absolute():
            for root in self.roots:
                if isinstance(root, Path) and pure.is_relative_to(root.absolute().as_posix()):
                    return pure.relative_to(root.absolute().as_posix()), [root]
            raise outside
        if ":" in (pure.parts or ("",))[0]:
            raise outside
        return pure, [*self.roots, *self._archives]

    def _only(self, name: str, places: Sequence[Any]) -> bytes | None:
        """The bytes at all places that have the name, which must be the same."""
        found: bytes | None = None
        for place in places:
            data = self._from_folder(place, name) if isinstance(place, Path) else _read(place, name)
            if data is None:
                continue
            if found is not None and data != found:
                raise BadRow(f"several image roots hold another file of this name: {shortened(name)}")
            found = data
        return found

    def _from_folder(self, root: Path, name: str) -> bytes | None:
        try:
            file = root / name
            if file.is_file():
                real = os.path.realpath(file)
                if not real.startswith(self._real[root]):
                    raise BadRow(f"a symbolic link leads out of the image root: {shortened(name)}")
                return file_bytes(real)
        except UnusableImage as error:
            raise BadRow(f"the image file cannot be read: {shortened(name)}: {error}") from None
        except OSError as error:
            raise BadRow(f"the image file cannot be read: {shortened(name)}: {error.strerror}") from None
        return None


def _read(place: Any, name: str) -> bytes | None:
    if not isinstance(place, AnyArchive):
        found: bytes | None = place.read(name)
        return found
    try:
        return place.read(name, MAX_BYTES)
    except (zipfile.BadZipFile, OSError) as error:
        raise BadRow(f"image cannot be read from {place.path.name}: {shortened(name)}: {error}") from None


def shortened(path: str, most: int = 200) -> str:
    """A path for a message: a text that is no path may be as long as an image."""
    return path if len(path) <= most else f"{path[:most]}... ({len(path)} characters)"


def _hub_cache() -> tuple[str, ...]:
    """Where the files are that the links of a downloaded dataset lead to."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return ()
    return (os.path.realpath(HF_HUB_CACHE) + os.sep,)


def open_archive(path: Any) -> Archive | TarArchive:
    """A zip or tar file. Raises `DataError` where it is not whole."""
    try:
        return TarArchive(path) if path.name.lower().endswith(".tar") else Archive(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} is not a whole zip file: {error}. Join a zip in several parts first (`zip -s 0`), "
            "or unpack it and give the folder with --image-root."
        ) from None
