"""Images as encoded bytes: found below the image root, and checked by their headers without decoding them."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from dataset_tools.errors import BadRow, DataError
from dataset_tools.images.archives import Archive
from dataset_tools.images.opening import MAX_BYTES, MAX_PIXELS, UnusableImage, file_bytes, open_undecoded

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


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
    """Images given by path: below folders, or as members of zip files, searched in order.

    A path that is absolute or climbs out with `..` is refused, and so is one that a symbolic link leads out
    of its folder, but for the Hub's cache, whose files are links; zip members are read, never extracted.
    """

    def __init__(self, roots: list[Path], archives: list[Path] | None = None):
        self.roots = [root for root in roots if root.is_dir()]
        self._inside = {root: (os.path.realpath(root) + os.sep, *_hub_cache()) for root in self.roots}
        self._archives = [_open_archive(path) for path in archives or []]

    def read(self, path: str) -> bytes:
        """The bytes of an image. Raises `BadRow` where it is missing, unreadable or outside the root."""
        pure = PurePosixPath(path.replace("\\", "/"))
        if pure.is_absolute() or ".." in pure.parts or ":" in (pure.parts or ("",))[0] or "\0" in path:
            raise BadRow(f"the image path leaves the image root: {path!r}")
        names = (
            [str(pure)] if pure.suffix.lower() in ENDINGS else [str(pure), *(f"{pure}{e}" for e in ENDINGS)]
        )
        for name in names:
            data = self._from_folders(name)
            data = self._from_archives(name) if data is None else data
            if data is not None:
                return data
        raise BadRow(f"image file not found: {path}")

    def _from_folders(self, name: str) -> bytes | None:
        for root in self.roots:
            try:
                file = root / name
                if file.is_file():
                    real = os.path.realpath(file)
                    if not real.startswith(self._inside[root]):
                        raise BadRow(f"a symbolic link leads out of the image root: {name}")
                    return file_bytes(real)
            except UnusableImage as error:
                raise BadRow(f"the image file cannot be read: {name}: {error}") from None
            except OSError as error:
                raise BadRow(f"the image file cannot be read: {name}: {error.strerror}") from None
        return None

    def _from_archives(self, name: str) -> bytes | None:
        for archive in self._archives:
            try:
                data = archive.read(name, MAX_BYTES)
            except (zipfile.BadZipFile, OSError) as error:
                raise BadRow(f"image cannot be read from {archive.path.name}: {name}: {error}") from None
            if data is not None:
                return data
        return None


def _hub_cache() -> tuple[str, ...]:
    """Where the files are that the links of a downloaded dataset lead to."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return ()
    return (os.path.realpath(HF_HUB_CACHE) + os.sep,)


def _open_archive(path: Path) -> Archive:
    try:
        return Archive(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path} is not a whole zip file: {error}. Join a zip in several parts first (`zip -s 0`), "
            "or unpack it and give the folder with --image-root."
        ) from None
