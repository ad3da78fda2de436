"""Rows of questions about images: LLaVA-Instruct's layout, or a prompt and an image under any name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dataset_tools.convert.gate import refuses
from dataset_tools.dataset.schema import IMAGE_MARKER
from dataset_tools.errors import BadRow
from dataset_tools.sources.base import from_json, turns
from dataset_tools.sources.images import ImageValue, image_list

PROMPTS = ("conversations", "messages", "prompt", "question", "instruction", "query", "text")
IMAGES = ("image", "images", "image_path", "image_file")


@dataclass(frozen=True)
class Instruction:
    """A question about one image, not yet loaded."""

    question: str
    image: ImageValue


@refuses
def instruction_of(row: Mapping[str, Any], columns: Mapping[str, str]) -> Instruction:
    """The question and image of a row; of a conversation the first question, since its answer is generated.

    `columns`: names of the columns `prompt` and `image`, else the first of `PROMPTS` and of `IMAGES` that the
    row has. `<image>` markers are taken out: the image comes first. Raises `BadRow`.
    """
    name = _column(row, columns.get("prompt"), PROMPTS, "prompt")
    held: list[ImageValue] = []
    value = from_json(row[name])
    if isinstance(value, str):
        question = value
    else:
        messages = turns([value] if isinstance(value, Mapping) else value, images=held)
        if messages[0]["role"] != "user":
            raise BadRow(f"{name} begins with the role {messages[0]['role']}, not with a question")
        question = messages[0]["content"]
    question = question.replace(IMAGE_MARKER, "").strip()
    if not question:
        raise BadRow(f"{name} is empty")
    images = held or image_list(row[_column(row, columns.get("image"), IMAGES, "image")])
    if len(images) != 1:
        raise BadRow(f"the row has {len(images) or 'no'} images, and one is needed")
    return Instruction(question, images[0])


def _column(row: Mapping[str, Any], given: str | None, usual: tuple[str, ...], what: str) -> str:
    for name in (given,) if given else usual:
        if row.get(name) not in (None, "", []):
            return name
    wanted = given or f"none of {', '.join(usual)}"
    raise BadRow(f"the row has no {what}: {'its column is empty or missing, ' if given else ''}{wanted}")
