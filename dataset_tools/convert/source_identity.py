"""Whether a source is still the one that a conversion began with, told from its files without reading all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

from dataset_tools.convert.files import AnyFile, HubFile, Joined, ZipMember

SAMPLES = 64
SAMPLE_BYTES = 64 << 10


def identity(files: Iterable[tuple[AnyFile, str]], pinned: bool = False) -> list[list[Any]]:
    """For each file of data and each archive: its name, size, and, on this disk, its time and a digest.

    `pinned`: the files are of one commit of the Hub, which tells them. The digest is of 64 pieces of 64 KiB
    spread over the file, all of it where it has no more: another content under the same size and time is met
    there.
    """
    found: list[list[Any]] = []
    for file, name in dict.fromkeys(files):
        if isinstance(file, ZipMember):
            found += identity([(file.archive, file.archive.name)], pinned)
        elif isinstance(file, Joined):
            found += identity([(part, part.name) for part in file.parts], pinned)
        elif pinned or isinstance(file, HubFile):
            found.append([name, file.stat().st_size])
        else:
            status = file.stat()
            found.append([name, status.st_size, status.st_mtime_ns, _digest(file, status.st_size)])
    return [entry for index, entry in enumerate(found) if entry not in found[:index]]


def content_of(found: list[list[Any]]) -> str:
    """A digest of an `identity` without times: the same for another copy of the same files."""
    return blake2b(
        json.dumps([entry[:2] + entry[3:] for entry in found]).encode(), digest_size=16
    ).hexdigest()


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
