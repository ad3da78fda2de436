"""Only images of the known formats, within the limit of pixels and from regular files, are ever opened."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aspo_plugin.training.image_check import UnreadableImage, readable_size
from dataset_tools.errors import BadRow
from dataset_tools.images.opening import FORMATS, MAX_PIXELS, UnusableImage, open_image, open_undecoded
from dataset_tools.images.store import ImageStore, check_header
from dataset_tools.inspect.preview import _thumbnail
from dataset_tools.inspect.validate import image_problems

# What Pillow writes and reads, but no dataset needs: EPS runs Ghostscript, others take much memory.
FOREIGN = ("EPS", "PPM", "TGA", "ICO", "SGI", "PCX", "DDS", "IM", "MSP", "SPIDER", "XBM", "JPEG2000")


def encoded(kind: str, size: tuple[int, int] = (8, 6)) -> bytes:
    stream = io.BytesIO()
    mode = "1" if kind in ("MSP", "XBM") else "F" if kind == "SPIDER" else "RGB"
    try:
        Image.new(mode, size).save(stream, kind)
    except (OSError, KeyError) as error:
        pytest.skip(f"this Pillow writes no {kind}: {error}")
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises this many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0"))
        + chunk(b"IEND", b"")
    )


def as_training_does(data: bytes) -> None:
    readable_size({"bytes": data, "path": None})


def as_preview_does(data: bytes) -> None:
    if _thumbnail(data) is None:
        raise UnusableImage


def as_validate_does(data: bytes) -> None:
    if image_problems([{"bytes": data, "path": None}]):
        raise UnusableImage


OPENINGS: dict[str, Callable[[bytes], Any]] = {
    "score and TRL": open_image,
    "training": as_training_does,
    "convert": check_header,
    "preview": as_preview_does,
    "validate": as_validate_does,
}


@pytest.fixture(params=OPENINGS)
def opening(request: pytest.FixtureRequest) -> Callable[[bytes], Any]:
    return OPENINGS[request.param]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_format_of_no_dataset_is_refused(opening: Callable[[bytes], Any], kind: str) -> None:
    with pytest.raises((UnusableImage, UnreadableImage, BadRow)):
        opening(encoded(kind))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_formats_of_datasets_open(opening: Callable[[bytes], Any], kind: str) -> None:
    opening(encoded(kind))


@pytest.mark.parametrize("size", [(50_000, 50_000), (MAX_PIXELS, 2), (1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_header_with_too_many_pixels_is_refused(
    opening: Callable[[bytes], Any], size: tuple[int, int]
) -> None:
    with pytest.raises((UnusableImage, UnreadableImage, BadRow)):
        opening(bomb(*size))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"GIF89a", b"not an image", bomb(4, 4)[:20]])
def test_no_image_is_refused(opening: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises((UnusableImage, UnreadableImage, BadRow)):
        opening(data)


def test_the_reason_is_the_same_every_time() -> None:
    """Reasons are counted and compared between runs: they hold no address of a stream."""
    said = set()
    for _ in range(3):
        with pytest.raises(UnusableImage) as caught:
            open_undecoded(b"\x00\x01 what is this")
        said.add(str(caught.value))
    assert len(said) == 1 and "0x" not in said.pop()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.timeout(20)
def test_a_pipe_never_hangs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for image in (tmp_path / "pipe.png", {"bytes": None, "path": str(tmp_path / "pipe.png")}):
        with pytest.raises(UnusableImage, match="not a regular file"):
            open_image(image)
    with pytest.raises(UnreadableImage, match="not a regular file"):
        readable_size({"bytes": None, "path": str(tmp_path / "pipe.png")})
    with pytest.raises(BadRow):
        ImageStore([tmp_path]).read("pipe.png")
