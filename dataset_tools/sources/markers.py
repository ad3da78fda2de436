"""Placeholders that other tools write where an image belongs, turned into `<image>`, or named."""

from __future__ import annotations

import re

from dataset_tools.dataset.schema import IMAGE_MARKER
from dataset_tools.errors import BadRow

_PLACEHOLDERS = (
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>",
    r"<\|image_pad\|>",
    r"<\|image_?(?P<a>\d*)\|>",
    r"<image[_ -]?(?P<b>\d+)>",
    r"<\|?begin_of_image\|?><\|?end_of_image\|?>",
    r"<(?:ImageHere|IMAGE|Image|image_placeholder|image-placeholder|start_of_image|image_soft_token)>",
    r"\[IMG\]",
    r"\(<image>\./</image>\)",
)
_ANY = re.compile("|".join(_PLACEHOLDERS))


def with_markers(prompt: list[dict[str, str]], images: int) -> list[dict[str, str]]:
    """The prompt with one `<image>` for each placeholder, where there is exactly one for each image, in
    order.

    Raises `BadRow`, naming what was found, where placeholders and images do not match.
    """
    found = [
        match
        for message in prompt
        if message["role"] == "user"
        for match in _ANY.finditer(message["content"])
    ]
    if not found:
        return prompt
    texts = list(dict.fromkeys(match[0] for match in found))
    numbers = [int(number) for match in found if (number := match["a"] or match["b"])]
    markers = sum(message["content"].count(IMAGE_MARKER) for message in prompt)
    markers -= sum(match[0].count(IMAGE_MARKER) for match in found)
    ordered = not numbers or numbers in (list(range(1, images + 1)), list(range(images)))
    if len(found) != images or markers or not ordered:
        raise BadRow(
            f"the prompt has other placeholders than {IMAGE_MARKER}: {len(found)} ({', '.join(texts[:4])}) "
            f"for {images} images"
        )
    return [
        {**message, "content": _ANY.sub(IMAGE_MARKER, message["content"])}
        if message["role"] == "user"
        else message
        for message in prompt
    ]
