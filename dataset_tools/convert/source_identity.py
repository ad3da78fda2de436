"""Whether a source is still the one that a conversion began with, told from its files without reading all."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

from dataset_tools.convert.locate import Located

SAMPLES = 64
SAMPLE_BYTES = 64 << 10


def identity(located: Located) -> list[list[Any]]:
    """For each file of data and each archive: its name, size, and, on this disk, its time and a digest.

    A file of the Hub is told by its commit. The digest is of 64 pieces of 64 KiB spread over the file, all of
    it where it has no more: another content under the same size and time is met there.
    """
    archives = [(path, path.name) for path in located.archives]
    found: list[list[Any]] = []
    for path, name in (*located.files, *archives):
        status = path.stat()
        if located.hub and (path, name) in located.files:
            found.append([name, status.st_size])
        else:
            when = getattr(status, "st_mtime_ns", None)
            found.append([name, status.st_size, when, _digest(path, status.st_size)])
    return found


def _digest(path: Path, size: int) -> str:
    digest = blake2b(digest_size=16)
    step = max(size // SAMPLES, SAMPLE_BYTES)
    with path.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            digest.update(stream.read(SAMPLE_BYTES))
        stream.seek(max(size - SAMPLE_BYTES, 0))
        digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Of the whole content of a file."""
    digest = blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def changed(before: list[list[Any]], now: list[list[Any]]) -> str | None:
    """The name of a file that differs, None where none does."""
    if before == now:
        return None
    names = {entry[0]: entry for entry in before}
    for entry in now:
        if names.get(entry[0]) != entry:
            return str(entry[0])
    gone = set(names) - {entry[0] for entry in now}
    return str(min(gone)) if gone else "the order of the files"
