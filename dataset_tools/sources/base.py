"""What a source is: a few class attributes and one method that turns a row into preference pairs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dataset_tools.dataset.schema import IMAGE_MARKER
from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources.images import ImageValue, image_list, one_image

Messages = list[dict[str, str]]


@dataclass
class Pair:
    """One preference pair before it is split into sentences.

    `images`: embedded in the row (`Embedded`), encoded bytes, or a path below the image root.
    `prompt`: the text of one user turn, or a list of {role, content}. Literal `<image>` markers say where
    the images belong; without any they come first. `id` is empty where the source has none: the row's
    position is used then. `chosen` and `rejected` may be None, which makes a bad row. `context` is the
    beginning of both answers where it is given to the model and not trained; it stands in neither of the two.
    """

    images: list[ImageValue]
    prompt: str | Messages
    chosen: str | None
    rejected: str | None
    id: str = ""
    context: str = ""


@dataclass(frozen=True)
class Options:
    """What a user may set for a source: how completions are paired, and names of columns (column mapping)."""

    pairs: str = "all"
    min_margin: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Source:
    """One kind of source dataset. docs/data.md, "Add a source", says what a new one needs."""

    name: ClassVar[str]
    about: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Columns that a row must have; also how the source is recognised when `--from` is left out."""
    license: ClassVar[str | None] = None
    """Licence identifier of the Hub, as far as known; nothing made of the set has a looser one."""
    citation: ClassVar[str | None] = None
    """BibTeX entry of the source."""
    url: ClassVar[str | None] = None
    images: ClassVar[str] = "required"
    """`required`: a row without an image is rejected; `optional`: it is a text-only row."""
    repeats_images: ClassVar[bool] = False
    """Whether one image serves many rows in a row, which the written files then hold once."""
    repositories: ClassVar[tuple[str, ...]] = ()
    """Hub ids of the dataset and of its known copies: licence and citation are claimed for these only."""
    published: ClassVar[tuple[str, ...]] = ()
    """Name patterns of the files that the dataset is published with, where no other dataset has the like."""
    pictures_by: ClassVar[str | None] = None
    """Column whose value names the row's picture: rows that share one may have another's picture."""
    image_columns: ClassVar[tuple[str, ...]] = ("images", "image")
    """Columns that images are read from."""
    mapped: ClassVar[tuple[str, ...]] = ()
    """What `--column` may name."""
    image_folders: ClassVar[tuple[str, ...]] = ()
    """Folders below an image root in which the images of a row may be, tried in order; none: the root."""

    def __init__(self, options: Options | None = None):
        self.options = options or Options()

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        """Whether rows look like this source; `columns` maps each column's name to a sample value."""
        return set(cls.columns) <= set(columns)

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        """Needed columns that are not among `columns`, checked once before the first row."""
        return [name for name in self.columns if name not in columns]

    def pairs(self, row: Mapping[str, Any]) -> Iterable[Pair | SkippedPair]:
        """The row's pairs. Raises `BadRow` with a reason where the row cannot be used."""
        raise NotImplementedError


def text(row: Mapping[str, Any], name: str) -> str:
    """A text column's value. Raises `BadRow` for null, empty or anything that is not a text."""
    value = row.get(name)
    if value is None:
        raise BadRow(f"{name} is null")
    if not isinstance(value, str):
        raise BadRow(f"{name} is not a text but {type(value).__name__}")
    if not value.strip():
        raise BadRow(f"{name} is empty")
    return value


def identifier(row: Mapping[str, Any], name: str) -> str:
    """An id column's value as text; empty where it is missing."""
    value = row.get(name)
    return "" if value is None else str(value)


NAMES = ("user", "assistant", "system")
ROLES = {"human": "user", "gpt": "assistant", **{name: name for name in NAMES}}


def turns(
    value: Any, tags: Mapping[str, str] | None = None, images: list[ImageValue] | None = None
) -> Messages:
    """A conversation as {role, content} messages. A list that is wrapped twice is unwrapped, JSON text read.

    A turn is {from, value} or {role, content}, told by its keys; `tags` names other keys and roles as
    LLaMA-Factory does (`role_tag`, `content_tag`, `user_tag`, `assistant_tag`, `system_tag`). A content may
    be a list of {type, text}: its images become `<image>` markers, and those that it holds are added to
    `images`.
    """
    tags = tags or {}
    value = from_json(value)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or not value:
        raise BadRow(f"the conversation is {'null or empty' if not value else 'not a list of turns'}")
    names = {**ROLES, **{tags[f"{role}_tag"]: role for role in NAMES if f"{role}_tag" in tags}}
    messages = []
    for turn in value:
        if not isinstance(turn, Mapping):
            raise BadRow(f"a turn of the conversation is not an object but {type(turn).__name__}")
        short = "from" in turn
        role = turn.get(tags.get("role_tag") or ("from" if short else "role"))
        content = turn.get(tags.get("content_tag") or ("value" if short else "content"))
        if not isinstance(role, str) or role not in names:
            raise BadRow(f"a turn has the role {role!r}, expected one of {', '.join(sorted(names))}")
        messages.append({"role": names[role], "content": content_text(content, images)})
    return messages


_TURN_KEYS = ({"role", "content"}, {"from", "value"})


def from_json(value: Any) -> Any:
    """A text that holds a JSON message or a JSON list of messages as what it is; anything else unchanged.

    Raises `BadRow` for messages that were printed by Python, which no parser reads reliably.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        if _PRINTED.match(value):
            raise BadRow("a column holds messages as Python prints them, which are not JSON") from None
        return value
    items = found if isinstance(found, list) else [found]
    items = items[0] if len(items) == 1 and isinstance(items[0], list) else items
    said = bool(items) and all(
        isinstance(item, Mapping) and any(k <= set(item) for k in _TURN_KEYS) for item in items
    )
    return found if said else value


_PRINTED = re.compile(r"\s*\[?\s*\{\s*'(?:role|content|from|value)'\s*:")


def content_text(value: Any, images: list[ImageValue] | None = None) -> str:
    """A message's content as one text, each image of a list of {type, text} as an `<image>` marker."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(f"a message's content is {'null' if value is None else type(value).__name__}")
    parts = []
    for part in value:
        if isinstance(part, str):
            parts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("image", "image_url", "input_image"):
            parts.append(IMAGE_MARKER)
            held = [part[key] for key in _PART_KEYS if part.get(key) not in (None, "")]
            if held and images is not None:
                images.append(one_image(held[0]))
        elif kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            raise BadRow(f"a part of a message has the type {kind!r}, expected text or image")
    return "".join(parts)


_PART_KEYS = ("image", "image_url", "path", "url", "base64", "data", "bytes")


def answer(value: Any, name: str, tags: Mapping[str, str] | None = None) -> str:
    """A response given as a text, one message, or a list of one message."""
    value = from_json(value)
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow(f"{name} is null")
    messages = turns(value if isinstance(value, list) else [value], tags)
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise BadRow(f"{name} is not exactly one assistant message")
    return messages[0]["content"]


def split_answer(messages: Messages) -> tuple[Messages, str]:
    """The prompt and the answer that a whole conversation ends with."""
    if not messages or messages[-1]["role"] != "assistant":
        raise BadRow("the conversation does not end with an answer")
    return messages[:-1], messages[-1]["content"]


def two_answers(
    chosen: Any, rejected: Any, images: list[ImageValue], tags: Mapping[str, str] | None = None
) -> tuple[Messages, str, str]:
    """Prompt and answers of two whole conversations that differ in their last answer only."""
    prompt, better = split_answer(turns(chosen, tags, images))
    other, worse = split_answer(turns(rejected, tags))
    if prompt != other:
        raise BadRow("the two conversations differ before their last answer")
    return prompt, better, worse


def is_conversation(value: Any) -> bool:
    """Whether a response column holds a conversation of several turns."""
    return isinstance(value, list) and len(value) > 1


def prompt_of(value: Any, images: list[ImageValue], tags: Mapping[str, str] | None = None) -> Messages:
    """A prompt given as a text or as a list of messages."""
    value = from_json(value)
    if isinstance(value, Mapping):
        value = [value]
    return [{"role": "user", "content": value}] if isinstance(value, str) else turns(value, tags, images)


def images_of(row: Mapping[str, Any], names: Iterable[str], held: list[ImageValue]) -> list[ImageValue]:
    """The images of the first of the columns that has any, or those that the messages held."""
    for name in names:
        found = image_list(row.get(name))
        if found and held and found != held:
            raise BadRow(f"images are both in the messages and in the column {name}")
        if found:
            return found
    return held


__all__ = [
    "BadRow",
    "ImageValue",
    "Messages",
    "Options",
    "Pair",
    "SkippedPair",
    "Source",
    "answer",
    "content_text",
    "from_json",
    "identifier",
    "image_list",
    "images_of",
    "is_conversation",
    "prompt_of",
    "split_answer",
    "text",
    "turns",
    "two_answers",
]
