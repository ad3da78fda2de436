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
from dataset_tools.inspect.preview import thumbnail
from dataset_tools.inspect.validate import image_problems
from tests.support import converted, data

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
    if thumbnail(data, 64) is None:
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


# --- symbolic links, and paths inside a converted dataset ----------------------------------------


def test_links_below_an_image_root_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, outside, cache = (tmp_path / name for name in ("root", "outside", "cache"))
    for folder in (root / "deep", outside, cache / "blobs"):
        folder.mkdir(parents=True)
    for folder in (root, outside, cache / "blobs"):
        (folder / "a.png").write_bytes(encoded("PNG"))
    (root / "deep" / "inside.png").symlink_to(root / "a.png")
    (root / "cached.png").symlink_to(cache / "blobs" / "a.png")
    (root / "secret.png").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (tmp_path / "linked").symlink_to(root)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for place in (root, tmp_path / "linked"):  # the root itself may be a link: the user named it
        store = ImageStore([place])
        for name in ("a.png", "deep/inside.png", "cached.png"):
            assert store.read(name) == encoded("PNG")
        for name in ("secret.png", "folder/a.png"):
            with pytest.raises(BadRow, match="symbolic link leads out"):
                store.read(name)
    beside = tmp_path / "root2"
    beside.mkdir()
    (beside / "a.png").write_bytes(encoded("PNG"))
    (root / "beside.png").symlink_to(beside / "a.png")  # a name that begins alike is not inside
    with pytest.raises(BadRow, match="symbolic link leads out"):
        ImageStore([root]).read("beside.png")


@pytest.mark.timeout(60)
def test_a_path_in_a_converted_dataset_is_never_opened(tmp_path: Path, aspo_data: Any, hub: Any) -> None:
    rows = data.rows(4)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "mine.png").write_bytes(encoded("PNG"))
    rows[1]["images"] = [{"bytes": None, "path": str(tmp_path / "pipe.png")}]
    rows[2]["images"] = [{"bytes": None, "path": str(tmp_path / "mine.png")}]
    folder = converted.write(tmp_path / "set", [rows])
    told = aspo_data("validate", folder, code=1)
    assert told.output.count("has no bytes") >= 2
    aspo_data("preview", folder, "--html", tmp_path / "page.html")
    aspo_data("stats", folder)
    for layout in ("llamafactory", "trl"):
        told = aspo_data("export", folder, tmp_path / layout, "--to", layout, code=1)
        assert "has no bytes" in told.output and not (tmp_path / layout).exists()
    hub.publish("user/set", folder)
    told = aspo_data("pull", "user/set", tmp_path / "pulled", code=1)
    assert "has no bytes" in told.output and not (tmp_path / "pulled").exists()
