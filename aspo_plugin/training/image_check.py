"""A row's images, looked at before training: a broken one is met there, not in the middle of a run.

Whatever opens them later (the host, a processor) gets only what passed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class UnreadableImage(ValueError):
    """An image that cannot be decoded; the text says why."""


def readable_size(image: Mapping[str, Any] | None) -> tuple[int, int]:
    """(width, height) in pixels of a `{bytes, path}`, upright as the scorer's `open_image` gives it.

    All of its data is read, for a file that is cut off still has a whole header. Raises `UnreadableImage`.
    """
    from PIL import ExifTags

    from dataset_tools.images.opening import open_undecoded

    encoded, path = (image.get("bytes"), image.get("path")) if image else (None, None)
    if encoded is None and not path:
        raise UnreadableImage("it has neither bytes nor a path")
    try:
        with open_undecoded(encoded if encoded is not None else str(path)) as picture:
            width, height = picture.size
            turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            # A JPEG is decoded at an eighth of its size, from the same data.
            picture.draft(None, (1, 1))
            picture.load()
    except Exception as error:
        # Whatever a broken file makes Pillow raise, it is that file that is unreadable.
        raise UnreadableImage(str(error)) from error
    return (height, width) if turned else (width, height)
