"""What a fixture is, and the pictures and texts they are made of."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class Expected:
    """A row that must come out: its prompt's messages, its texts, its images."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    images: list[bytes]
    untrained: int = 0


@dataclass
class Fixture:
    """A source on disk. `bad` maps the id of each refused row to a part of its reason."""

    name: str
    path: Path
    rows: dict[str, Expected] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    origin: str | None = None
    """What the rows' `source` says, where it is not the location's name."""
    left: dict[str, str] = field(default_factory=dict)
    """Data files that are not read, with a part of the reason."""


def jpeg(seed: int, size: int = 24) -> bytes:
    """A JPEG whose pixels a second encoding would change."""
    picture = Image.radial_gradient("L").resize((size, size))
    picture = Image.merge("RGB", [picture.rotate(seed * 37 + turn * 91) for turn in range(3)])
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=60 + seed % 30)
    return stream.getvalue()


def png(seed: int, size: int = 16) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), ((seed * 71) % 256, (seed * 37) % 256, 90)).save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 64)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def user(text: str) -> list[dict[str, str]]:
    """A prompt of one user turn."""
    return [{"role": "user", "content": text}]


def answers(seed: int) -> tuple[str, str]:
    """A chosen and a rejected text of several sentences."""
    things = ["a red barn", "two dogs", "the old bridge", "a bowl of 3.5 kg apples", "一只黑猫。它在睡觉"]
    thing = things[seed % len(things)]
    chosen = f"The picture shows {thing}. It was taken at noon, e.g. in spring! Number {seed} is on a sign."
    rejected = f"There is {thing} and a crowd of people.\n\n1. They wave\n2. They sing, see fig. {seed}"
    return chosen, rejected


def raw_strings(values: list[bytes | None]) -> pa.Array:
    """A text column whose bytes need not be UTF-8."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
