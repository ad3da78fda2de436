"""The one place where an image is opened, for both packages: known formats, a limit of pixels, no odd files.

Pillow picks a decoder by a file's content, and some cost a process (EPS runs Ghostscript) or gigabytes for a
small file (FITS). Whatever opens an image on its own (a training framework) is given bytes that passed here.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_956_970
"""Pillow's own limit: beyond it an image is taken for a decompression bomb (twice its warning threshold)."""
MAX_BYTES = 512 << 20

ImageLike: TypeAlias = "bytes | pa.Buffer | str | Path | Image.Image | Mapping[str, Any]"


class UnusableImage(ValueError):
    """An image that is not opened; the text says why, the same every time (no address of a stream)."""

    kind = "not an image"


class TooDeep(UnusableImage):
    """Its grey values have 16 or 32 bits: as RGB, nearly all of them would be white, or black."""

    kind = "an image of more than 8 bits a pixel"


class TooManyPixels(UnusableImage):
    """Its header promises more pixels than allowed."""

    kind = "too many pixels"


def open_undecoded(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image with its header read: format and size are known and allowed, nothing is decoded.

    From encoded bytes, a path, a mapping with `bytes` or `path`, or a Pillow image, which is returned as it
    is. Raises `UnusableImage` for anything but an image of `FORMATS` with at most `max_pixels` pixels; what
    Pillow raises for data that is cut off or damaged comes with the decoding.
    """
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path") or b""
    if isinstance(image, Image.Image):
        if image.mode == "F" or image.mode.startswith("I"):
            raise TooDeep(f"it has grey values of mode {image.mode}: scale them to 8 bits first")
        return image
    data = file_bytes(image) if isinstance(image, str | Path) else image
    if not len(memoryview(data)):
        raise UnusableImage("it is empty")
    try:
        opened = Image.open(  # noqa: TID251  here and nowhere else
            io.BytesIO(data) if isinstance(data, bytes) else pa.BufferReader(data), formats=FORMATS
        )
    except Image.DecompressionBombError:
        raise TooManyPixels(f"it has more than {min(max_pixels, MAX_PIXELS):,} pixels") from None
    except Image.UnidentifiedImageError:
        raise UnusableImage(f"unknown format, not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # decoders raise what they like, SyntaxError and struct.error included
        raise UnusableImage(f"{str(error) or type(error).__name__}") from None
    if opened.width * opened.height > max_pixels:
        opened.close()
        raise TooManyPixels(f"it has {opened.width} x {opened.height} pixels, more than {max_pixels:,}")
    _check_depth(opened)
    return opened


def _check_depth(image: Image.Image) -> None:
    """Raise `TooDeep` for grey values that `convert("RGB")` would cut off at 255 instead of scaling."""
    if image.mode == "F" or image.mode.startswith("I"):
        mode = image.mode
        image.close()
        raise TooDeep(f"it has grey values of mode {mode}: save it with 8 bits, scaled by its own range")


def open_image(image: ImageLike, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An RGB image, decoded and upright, of what `open_undecoded` takes.

    Raises `UnusableImage`, and what Pillow raises for data that is cut off or damaged.
    """
    return ImageOps.exif_transpose(open_undecoded(image, max_pixels)).convert("RGB")


def file_bytes(path: str | Path) -> bytes:
    """The content of a regular file of at most `MAX_BYTES`; `UnusableImage` for a pipe or a device."""
    try:
        # Opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnusableImage("it is not a regular file")
            if status.st_size > MAX_BYTES:
                raise UnusableImage(f"the file is larger than {MAX_BYTES >> 20} MiB")
            return stream.read()
    except (OSError, ValueError) as error:
        if isinstance(error, UnusableImage):
            raise
        raise UnusableImage(getattr(error, "strerror", None) or str(error)) from None
