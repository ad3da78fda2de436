"""Images as rows give them: embedded, a path, bytes, base64, a `data:` address, or an object of these."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dataset_tools.errors import BadRow


@dataclass(frozen=True, slots=True)
class Embedded:
    """The place of an embedded image among the pictures of its chunk (`convert.readers.Pictures`).

    A class of its own: a plain number in a row is the name of a file, not a place. `index` -1 stands for an
    image that has neither bytes nor a path.
    """

    index: int


ImageValue: TypeAlias = Embedded | bytes | str
"""An embedded image, encoded bytes, or a path below an image root."""

_KEYS = ("bytes", "image", "path", "url", "image_url", "base64", "data", "file_name")
_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_DATA = re.compile(r"data:(?P<kind>[^;,]*)(?P<coded>;base64)?,", re.I)
# How JPEG, PNG, GIF, WebP and TIFF begin in base64.
_BASE64 = re.compile(r"(?:/9j/|iVBORw0KGgo|R0lGOD|UklGR|SUkq|TU0AK)[A-Za-z0-9+/\s]{40,}={0,2}\s*")
_NAMES = re.compile(
    r"(?:(?:rejected|chosen|input|query|raw|source|the)_)?(?:image|img|picture|photo|pic|frame|screenshot)s?"
    r"(?:_?(?:path|file|url|bytes|base64|data|name|list|\d+)s?)?|file_?name",
    re.I,
)
MEDIA = ("video", "videos", "video_path", "video_paths", "audio", "audios", "audio_path")


def image_list(value: Any) -> list[ImageValue]:
    """One image, a list of them, or none, as a list. Raises `BadRow` where one is null or no image."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.startswith("["):
        value = _parsed(value)
    found = list(value) if isinstance(value, list | tuple) else [value]
    return [one_image(item) for item in found]


def _parsed(value: str) -> Any:
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, list) else value


def one_image(value: Any) -> ImageValue:
    """An image in any of its forms. Raises `BadRow` where it is none, or would have to be fetched."""
    if isinstance(value, Embedded):
        if value.index < 0:
            raise BadRow("an image of the row has neither bytes nor a path")
        return value
    if value is None:
        raise BadRow("an image of the row is null")
    if isinstance(value, bytes):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a file name without its ending
    if isinstance(value, str):
        return _from_text(value)
    if isinstance(value, Mapping):
        for key in _KEYS:
            if value.get(key) not in (None, ""):
                return one_image(value[key])
        raise BadRow("an image of the row has neither bytes nor a path")
    raise BadRow("an image is not a path or bytes")


def _from_text(value: str) -> ImageValue:
    match = _DATA.match(value)
    if match:
        if not match["coded"]:
            raise BadRow("an image is a data: address that is not base64")
        return _decoded(value[match.end() :])
    if _BASE64.fullmatch(value):
        return _decoded(value)
    if not value.strip():
        raise BadRow("an image of the row is an empty text")
    if re.match(r"(?:https?|ftp|s3|gs)://", value, re.I):
        raise BadRow("an image is a web address, which is not fetched")
    return value.removeprefix("file://")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s+", "", text), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRow(f"an image is not base64: {error}") from None


def looks_like_image(name: str, value: Any) -> bool:
    """Whether a column's value is an image, by what it holds, or by the column's name."""
    if value is None or value == "" or value == [] or isinstance(value, bool):
        return False
    if isinstance(value, list):
        return any(looks_like_image(name, item) for item in value)
    if isinstance(value, Embedded | bytes):
        return True
    if isinstance(value, Mapping):
        return any(key in value and looks_like_image("image", value[key]) for key in ("bytes", "path", "url"))
    if not isinstance(value, str):
        return False
    if _DATA.match(value) or _BASE64.fullmatch(value):
        return True
    named = bool(_NAMES.fullmatch(name))
    short = len(value) < 1024 and "\n" not in value
    return short and (named or bool(re.fullmatch(rf"\S+\.(?:{'|'.join(_ENDINGS)})(?:\?\S*)?", value, re.I)))


def other_media(row: Mapping[str, Any]) -> str | None:
    """The column of a row that holds a video or sound, if any."""
    for name in MEDIA:
        if row.get(name) not in (None, "", []):
            return name
    return None
