"""What a source is: a few class attributes and one method that turns a row into preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dataset_tools.dataset.schema import IMAGE_MARKER
from dataset_tools.errors import BadRow, SkippedPair

Messages = list[dict[str, str]]


@dataclass
class Pair:
    """One preference pair before it is split into sentences.

    `images`: an `int` stands for an image embedded in the row, a `str` for a path below the image root.
    `prompt`: the text of one user turn, or a list of {role, content}. Literal `<image>` markers say where
    the images belong; without any they come first. `id` is empty where the source has none: the row's
    position is used then. `chosen` and `rejected` may be None, which makes a bad row.
    """

    images: list[int | str]
    prompt: str | Messages
    chosen: str | None
    rejected: str | None
    id: str = ""


@dataclass(frozen=True)
class Options:
    """What a user may set for a source: how completions are paired, and names of columns (column mapping)."""

    pairs: str = "all"
    min_margin: float = 0.0
    columns: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class Source:
    """One kind of source dataset. A new one is a subclass in its own file and a line in the registry."""

    name: ClassVar[str]
    about: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Columns that a row must have; also how the source is recognised when `--from` is left out."""
    license: ClassVar[str | None] = None
    """Licence identifier of the Hub, as far as known; the Hub's own statement is preferred."""
    citation: ClassVar[str | None] = None
    """BibTeX entry of the source."""
    url: ClassVar[str | None] = None
    images: ClassVar[str] = "required"
    """`required`: a row without an image is rejected; `optional`: it is a text-only row."""
    repeats_images: ClassVar[bool] = False
    """Whether one image serves many rows in a row, which the written files then hold once."""
    archives: ClassVar[tuple[str, ...]] = ()
    """Name patterns of the zip files that hold the images, looked for beside the data."""

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


def image_list(value: Any) -> list[int | str]:
    """One image, a list of them, or none, as a list."""
    if value is None or value == "":
        return []
    found = list(value) if isinstance(value, list | tuple) else [value]
    for item in found:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise BadRow("an image of the row is null" if item is None else "an image is not a path or bytes")
    return found


NAMES = ("user", "assistant", "system")
ROLES = {"human": "user", "gpt": "assistant", **{name: name for name in NAMES}}


def turns(value: Any, tags: Mapping[str, str] | None = None) -> Messages:
    """A conversation as {role, content} messages. A list that is wrapped twice is unwrapped.

    A turn is {from, value} or {role, content}, told by its keys; `tags` names other keys and roles as
    LLaMA-Factory does (`role_tag`, `content_tag`, `user_tag`, `assistant_tag`, `system_tag`). A content may
    be TRL's list of {type, text}: its images become `<image>` markers.
    """
    tags = tags or {}
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
        messages.append({"role": names[role], "content": content_text(content)})
    return messages


def content_text(value: Any) -> str:
    """A message's content as one text: a text as it is, TRL's list of {type, text} with `<image>` markers."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRow(f"a message's content is {'null' if value is None else type(value).__name__}")
    parts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "image":
            parts.append(IMAGE_MARKER)
        elif kind == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            raise BadRow(f"a part of a message has the type {kind!r}, expected text or image")
    return "".join(parts)


def answer(value: Any, name: str, tags: Mapping[str, str] | None = None) -> str:
    """A response given as a text, one message, or a list of one message."""
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
