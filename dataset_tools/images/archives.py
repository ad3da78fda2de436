"""Members of a large zip or tar file by name in 16 or 24 bytes each; Python's own take 500 and more."""

from __future__ import annotations

import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_UTF8 = 1 << 11
_ENCRYPTED = 1
_INDEX = np.dtype([("key", "<u8"), ("place", "<u8")])
_TAR_INDEX = np.dtype([("key", "<u8"), ("place", "<u8"), ("size", "<u8")])
ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings of the names of images."""
HEADERS = 500
"""Headers of a far tar file that are read before it is fetched whole: a request for each."""
_LOOKED_AT = 100


class Archive:
    """A zip file whose table of contents stays where it is. Raises `zipfile.BadZipFile` where it is not
    whole.

    `path` is anything with a `name` and `open("rb")`: a path, or one of `convert.files`.
    """

    def __init__(self, path: Any):
        self.path = path
        self.holds_images = False
        self._stream = path.open("rb")
        try:
            count, start = self._find_contents()
            self._index = np.empty(count, _INDEX)
            for number, (place, name) in enumerate(self._contents(count, start)):
                self._index[number] = (_key(name), place)
                self.holds_images = self.holds_images or name.lower().endswith(ENDINGS)
        except BaseException:
            self._stream.close()
            raise
        self._index.sort(order="key")

    def __len__(self) -> int:
        return len(self._index)

    def _find_contents(self) -> tuple[int, int]:
        """Number of members, and where the table of contents starts."""
        stream = self._stream
        size = stream.seek(0, 2)
        stream.seek(max(size - _END.size - 65_536, 0))
        tail = stream.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise zipfile.BadZipFile("no end record, it is cut short or no zip file")
        _, disk, _, _, count, length, start, _ = _END.unpack_from(tail, at)
        end = size - len(tail) + at
        if count == 0xFFFF or length == 0xFFFFFFFF or start == 0xFFFFFFFF:
            stream.seek(end - _END64_LOCATOR.size)
            mark, _, place, _ = _END64_LOCATOR.unpack(stream.read(_END64_LOCATOR.size))
            if mark == b"PK\x06\x07":
                stream.seek(place)
                _, _, _, _, disk, _, _, count, length, start = _END64.unpack(stream.read(_END64.size))
        if disk not in (0, 0xFFFFFFFF):
            raise zipfile.BadZipFile("it is one part of several")
        if start + length > end:
            raise zipfile.BadZipFile("its table of contents lies outside the file")
        return count, start

    def _contents(self, count: int, start: int) -> Iterator[tuple[int, str]]:
        self._stream.seek(start)
        for _ in range(count):
            place = self._stream.tell()
            head = self._stream.read(_CENTRAL.size)
            if len(head) < _CENTRAL.size or not head.startswith(b"PK\x01\x02"):
                raise zipfile.BadZipFile("its table of contents is damaged")
            fields = _CENTRAL.unpack(head)
            name = self._stream.read(fields[10])
            self._stream.seek(fields[11] + fields[12], 1)
            yield place, _text(name, fields[3])

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a member; None where there is none of that name.

        Raises `zipfile.BadZipFile` where it is damaged, encrypted, packed in an unknown way, or larger than
        `limit` bytes.
        """
        key = _key(name)
        first = int(np.searchsorted(self._index["key"], np.uint64(key)))
        while first < len(self._index) and int(self._index["key"][first]) == key:
            found = self._member(int(self._index["place"][first]), name, limit)
            if found is not None:
                return found
            first += 1
        return None

    def _member(self, place: int, wanted: str, limit: int) -> bytes | None:
        stream = self._stream
        stream.seek(place)
        fields = _CENTRAL.unpack(stream.read(_CENTRAL.size))
        flags, method, crc, packed, size, offset = fields[3], fields[4], *fields[7:10], fields[16]
        name = _text(stream.read(fields[10]), flags)
        if name != wanted:
            return None
        size, packed, offset = _wide(stream.read(fields[11]), size, packed, offset)
        if flags & _ENCRYPTED:
            raise zipfile.BadZipFile("it is encrypted")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise zipfile.BadZipFile(f"it is packed by method {method}, only stored and deflated are read")
        if max(size, packed) > limit:
            raise zipfile.BadZipFile(f"it is larger than {limit >> 20} MiB")
        stream.seek(offset)
        head = stream.read(_LOCAL.size)
        if len(head) < _LOCAL.size or not head.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("its header is damaged")
        local = _LOCAL.unpack(head)
        stream.seek(local[9] + local[10], 1)
        data: bytes = stream.read(packed)
        if method == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
            except zlib.error as error:
                raise zipfile.BadZipFile(f"it is damaged: {error}") from None
        if len(data) != size or zlib.crc32(data) != crc:
            raise zipfile.BadZipFile("it is damaged: the checksum differs")
        return data


class TarArchive:
    """A tar file that is not packed, gone through once. Raises `zipfile.BadZipFile` where it is not whole."""

    def __init__(self, path: Any):
        self.path = path
        self.holds_images = False
        found: list[tuple[int, int, int]] = []
        self._stream = path.open("rb")
        try:
            with tarfile.open(fileobj=self._stream, mode="r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                    if member.isreg():
                        name = member.name.removeprefix("./")
                        found.append((_key(name), member.offset_data, member.size))
                        self.holds_images = self.holds_images or name.lower().endswith(ENDINGS)
        except tarfile.TarError as error:
            self._stream.close()
            raise zipfile.BadZipFile(f"no whole tar file that is not packed ({error})") from None
        self._index = np.array(found, _TAR_INDEX)
        self._index.sort(order="key")

    def __len__(self) -> int:
        return len(self._index)

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a member, of several the last, as unpacking gives; None where there is none."""
        keys = self._index["key"]
        key = np.uint64(_key(name))
        first, end = (int(np.searchsorted(keys, key, side=side)) for side in ("left", "right"))
        if first == end:
            return None
        place, size = max((int(item["place"]), int(item["size"])) for item in self._index[first:end])
        return _part(self._stream, place, size, limit)


class TarByRange:
    """A tar file that is far away: headers are read in turn, until a wanted member is met.

    A tar file has no table of contents. Where `HEADERS` of them do not hold a member, `whole` is asked for
    the file on this disk. Of several members of one name the first counts: no others are looked for.
    """

    def __init__(self, path: Any, whole: Callable[[], Any]):
        """`path`: as of `TarArchive`, with `open("rb", least)`, `least` bytes being asked for at once."""
        self.path, self._whole = path, whole
        self._found: dict[str, tuple[int, int]] = {}
        self._stream = path.open("rb", 4096)
        self._walked = 0
        self._fetched: TarArchive | None = None
        try:
            self._tar = tarfile.open(fileobj=self._stream, mode="r:")
        except tarfile.TarError as error:
            self._stream.close()
            raise zipfile.BadZipFile(f"no whole tar file that is not packed ({error})") from None
        self.holds_images = any(name.lower().endswith(ENDINGS) for name in self._walk(_LOOKED_AT))

    def read(self, name: str, limit: int) -> bytes | None:
        """The bytes of a member; None where there is none."""
        if name not in self._found and self._fetched is None:
            if name not in self._walk(HEADERS) and self._walked >= HEADERS:
                self._fetched = TarArchive(self._whole())
        if self._fetched is not None:
            return self._fetched.read(name, limit)
        if name not in self._found:
            return None
        place, size = self._found[name]
        return _part(self._stream, place, size, limit)

    def _walk(self, most: int) -> Iterator[str]:
        """Names of further members, until `most` headers of the file have been read."""
        while self._walked < most:
            try:
                member = self._tar.next()
            except tarfile.TarError as error:
                raise zipfile.BadZipFile(f"no whole tar file that is not packed ({error})") from None
            if member is None:
                return
            self._walked += 1
            self._tar.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
            if member.isreg():
                name = member.name.removeprefix("./")
                self._found.setdefault(name, (member.offset_data, member.size))
                yield name


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset with the 64-bit values of the extra field where the 32-bit ones are full."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            size = next(values, size) if size == 0xFFFFFFFF else size
            packed = next(values, packed) if packed == 0xFFFFFFFF else packed
            offset = next(values, offset) if offset == 0xFFFFFFFF else offset
        at += 4 + length
    return size, packed, offset


def _text(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _UTF8 else "cp437", "replace")


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _part(stream: Any, place: int, size: int, limit: int) -> bytes:
    """`size` bytes from `place` on; `zipfile.BadZipFile` where they are over `limit` or not all there."""
    if size > limit:
        raise zipfile.BadZipFile(f"it is larger than {limit >> 20} MiB")
    stream.seek(place)
    data: bytes = stream.read(size)
    if len(data) != size:
        raise zipfile.BadZipFile("it is damaged: its end is missing")
    return data
