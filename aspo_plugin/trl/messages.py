"""The texts of a row in any of TRL's preference shapes, as messages with plain contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aspo_plugin.training.refusals import RefusedRow
from dataset_tools.dataset.schema import IMAGE_MARKER, count_markers, default_markers

# A prompt or response that is trained as it stands, without a chat template (TRL's "standard" format).
PLAIN = "plain"


def text_pair(row: dict[str, Any], images: int) -> tuple[list[dict[str, str]], str, str]:
    """(prompt messages, chosen, rejected) with plain string contents, from any of TRL's preference shapes.

    Images among the parts of a content become `<image>` markers; `images` is how many the row has.
    """
    for name in ("prompt", "chosen", "rejected") if "prompt" in row else ("chosen", "rejected"):
        _check_shape(name, row[name])
    if "prompt" not in row:
        row = {**row, **_prompt_of(row)}
        _check_shape("messages", row["prompt"])
    prompt = _messages(row["prompt"], "user", images)
    chosen, rejected = (_messages(row[name], "assistant", images) for name in ("chosen", "rejected"))
    if isinstance(row["prompt"], str) and all(isinstance(row[name], str) for name in ("chosen", "rejected")):
        prompt = [{"role": PLAIN, "content": row["prompt"]}]
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise RefusedRow("turns", f"{name} is not exactly one assistant message")
        if not messages[0]["content"].strip():
            raise RefusedRow("empty", f"{name} is empty")
        if images and IMAGE_MARKER in messages[0]["content"]:
            raise RefusedRow("markers", f"{name} holds a literal {IMAGE_MARKER}")
    prompt = default_markers(prompt, images)
    if images and count_markers(prompt) not in (0, images):
        raise RefusedRow("markers", f"{count_markers(prompt)} {IMAGE_MARKER} markers, {images} images")
    if images and prompt[0]["role"] == PLAIN:
        raise RefusedRow(
            "unread", "the prompt is a plain text, but images need messages: [{role: user, content: ...}]"
        )
    return prompt, chosen[0]["content"], rejected[0]["content"]


def _prompt_of(row: dict[str, Any]) -> dict[str, Any]:
    """The prompt of a row without that column: what both answers begin with, or the messages before them."""
    answers = {name: row[name] for name in ("chosen", "rejected")}
    if all(
        isinstance(value, str) or isinstance(value, list) and len(value) > 1 for value in answers.values()
    ):
        if not (isinstance(row["chosen"], str) and row.get("messages")):
            from trl import extract_prompt

            found: dict[str, Any] = extract_prompt(answers)
            return found
    if not row.get("messages"):
        raise RefusedRow(
            "turns",
            "there is no prompt: it stands in a column `prompt` or `messages`, or both answers begin with it",
        )
    return {"prompt": row["messages"]}


def _check_shape(name: str, value: Any) -> None:
    """Raise `RefusedRow` for a column that is neither a text nor messages."""
    if value is None:
        raise RefusedRow("turns", f"there is no {name}")
    messages = [value] if isinstance(value, dict) else value
    # An empty list is told apart, with what is missing in it.
    if isinstance(value, str) or value in ([], {}):
        return
    if isinstance(messages, list) and all(
        isinstance(message, dict) and message.get("role") for message in messages
    ):
        return
    raise RefusedRow(
        "unread",
        f"the column {name} is {kind_of(value)}, not a text or a list of messages, each "
        "{role: ..., content: ...}",
    )


def kind_of(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, dict):
        return f"a dictionary with the keys {', '.join(map(str, value))}"
    if isinstance(value, list):
        return f"a list of {kind_of(value[0])}" if value else "an empty list"
    return f"a {type(value).__name__}"


def _messages(value: Any, role: str, images: int) -> list[dict[str, str]]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, dict):
        value = [value]
    if not value:
        raise RefusedRow("turns", f"an empty list of messages where one of the {role} is needed")
    return [{"role": message["role"], "content": _text(message.get("content"), images)} for message in value]


def _text(content: Any, images: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RefusedRow("turns", "a message without content")
    return "".join(_part(part, images) for part in content)


def _part(part: dict[str, Any], images: int) -> str:
    kind = part["type"]
    if kind == "text":
        return part.get("text") or ""
    if kind != "image":
        raise RefusedRow("unread", f"a message holds something other than text and images: {kind}")
    if not images or any(part.get(name) for name in ("image", "path", "url", "base64")):
        raise RefusedRow(
            "unread", "a message holds an image of its own: images are read from the column `images`"
        )
    return IMAGE_MARKER


def parts(messages: Sequence[dict[str, str]], images: int) -> list[dict[str, Any]]:
    """Messages as the chat templates of processors take them: a list of image and text parts each."""
    marked = bool(images) and count_markers(messages) == images
    waiting = 0 if marked else images
    result = []
    for message in messages:
        pieces = message["content"].split(IMAGE_MARKER) if marked else [message["content"]]
        parts: list[dict[str, str]] = []
        if waiting and message["role"] == "user":
            parts, waiting = [{"type": "image"}] * waiting, 0
        for index, piece in enumerate(pieces):
            parts = parts + [{"type": "image"}] * (index > 0)
            parts = parts + [{"type": "text", "text": piece}] * bool(piece)
        result.append({"role": message["role"], "content": parts})
    return result
