"""Files that are read like a `Path`, wherever they lie: on this disk, on the Hub, in a zip, or in parts.

Each has a `name`, a `suffix`, `stat().st_size` and `open()`. A file on the Hub is read by ranges: no more of
it travels than is asked for.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, Any, BinaryIO, TypeAlias

from dataset_tools.errors import DataError

RANGE_BYTES = 64 << 10
"""The least that is asked of the Hub at once; twice as much each time that reading goes on where it was."""
MOST_BYTES = 512 << 10


def readable_size(count: float) -> str:
    """Bytes as a person reads them: `426.0 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


@dataclass(frozen=True)
class _Held:
    """A file that lies in something else than a folder of this disk: its path in there, and its bytes."""

    path: str
    size: int

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of its name."""
        return PurePosixPath(self.path).suffix

    def stat(self) -> Any:
        """Its size (unpacked), as `Path.stat` gives it."""
        return SimpleNamespace(st_size=self.size)


@dataclass(frozen=True)
class HubFile(_Held):
    """A file of a Hub dataset at one commit."""

    repo: str
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}/{self.path}"

    def open(self, mode: str = "rb", least: int = RANGE_BYTES) -> BinaryIO:
        """A stream that asks for the ranges it is read in, of at least so many bytes."""
        from dataset_tools.convert.hub import file_system

        raw = file_system().open(
            f"datasets/{self.repo}@{self.revision}/{self.path}",
            mode,
            block_size=RANGE_BYTES,
            cache_type="none",
        )
        return io.BufferedReader(_Ranges(raw, self.size, least), min(16 << 10, least))


class _Seekable(io.RawIOBase):
    """A raw stream of a known size that knows where it is."""

    _at = 0
    _size: int

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + {0: 0, 1: self._at, 2: self._size}[whence]
        return self._at


class _Ranges(_Seekable):
    """A seekable raw stream over a file of the Hub, which keeps the last range."""

    def __init__(self, file: Any, size: int, least: int):
        self._file, self._size, self._least = file, size, least
        self._start, self._held, self._next = 0, b"", least

    def readinto(self, buffer: Any) -> int:
        end = self._start + len(self._held)
        if not self._start <= self._at < end:
            if self._at >= self._size:
                return 0
            goes_on = self._at == end and self._held and len(buffer) < self._least
            self._next = min(2 * self._next, MOST_BYTES) if goes_on else self._least
            self._fetch(min(max(len(buffer), self._next), self._size - self._at))
        offset = self._at - self._start
        data = self._held[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _fetch(self, count: int) -> None:
        from dataset_tools.convert.hub import cut_off

        with cut_off():
            self._file.seek(self._at)
            self._start, self._held = self._at, self._file.read(count)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@dataclass(frozen=True)
class ZipMember(_Held):
    """A file inside a zip file, read as a stream and never extracted."""

    archive: AnyFile

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A stream of the unpacked bytes."""
        try:
            return zipfile.ZipFile(self.archive.open("rb")).open(self.path)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self} cannot be read: {error}") from None


@dataclass(frozen=True)
class Joined:
    """Several files as one, as `cat part_a part_b` makes of them."""

    parts: tuple[AnyFile, ...]
    name: str

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))

    @property
    def suffix(self) -> str:
        """The ending of the whole's name."""
        return PurePosixPath(self.name).suffix

    def stat(self) -> Any:
        """The size of all parts."""
        return SimpleNamespace(st_size=sum(part.stat().st_size for part in self.parts))

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream over all parts."""
        return io.BufferedReader(_JoinedStream(self.parts), 64 << 10)


class _JoinedStream(_Seekable):
    def __init__(self, parts: tuple[AnyFile, ...]):
        self._streams = [part.open("rb") for part in parts]
        self._sizes = [part.stat().st_size for part in parts]
        self._size = sum(self._sizes)

    def readinto(self, buffer: Any) -> int:
        start = 0
        for stream, size in zip(self._streams, self._sizes, strict=True):
            if self._at < start + size:
                stream.seek(self._at - start)
                data = stream.read(min(len(buffer), start + size - self._at))
                buffer[: len(data)] = data
                self._at += len(data)
                return len(data)
            start += size
        return 0

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        super().close()


AnyFile: TypeAlias = Path | HubFile | ZipMember | Joined


def open_unpacked(file: AnyFile) -> IO[bytes]:
    """The file's bytes; those of a `.gz` unpacked while they are read."""
    stream = file.open("rb")
    return gzip.open(stream, "rb") if file.suffix == ".gz" else stream  # type: ignore[return-value]


def kind_of(name: str) -> str:
    """The ending that says how a file is read, `.gz` left out: `.jsonl` for `rows.jsonl.gz`."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix == ".gz" else path.suffix
