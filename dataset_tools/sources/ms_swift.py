"""ms-swift's layout: `messages` that end with the chosen answer, or query and response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import (
    BadRow,
    ImageValue,
    Messages,
    Pair,
    Source,
    answer,
    from_json,
    identifier,
    image_list,
    images_of,
    split_answer,
    text,
    turns,
)


class MsSwift(Source):
    name = "ms-swift"
    about = (
        "ms-swift: messages with rejected_response or rejected_messages; query, response, rejected_response"
    )
    columns = ("messages", "rejected_response")
    images = "optional"

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        names = set(columns)
        beside = names & {"rejected_response", "rejected_messages"}
        return bool(beside) and bool({"messages"} <= names or {"query", "response"} <= names)

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        return [] if self.matches(columns) else super().missing(columns)

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        held: list[ImageValue] = []
        if row.get("messages") is not None:
            prompt, chosen = split_answer(turns(row["messages"], None, held))
        else:
            prompt, chosen = self._query(row), text(row, "response")
        if row.get("system") and prompt[0]["role"] != "system":
            prompt = [{"role": "system", "content": text(row, "system")}, *prompt]
        images = images_of(row, self.image_columns, held)
        yield Pair(images, prompt, chosen, self._rejected(row, prompt, images), identifier(row, "id"))

    @staticmethod
    def _query(row: Mapping[str, Any]) -> Messages:
        said: Messages = []
        for turn in row.get("history") or []:
            if not isinstance(turn, list) or len(turn) != 2:
                raise BadRow("history is not a list of [question, answer]")
            said += [
                {"role": role, "content": each}
                for role, each in zip(("user", "assistant"), turn, strict=True)
            ]
        return [*said, {"role": "user", "content": text(row, "query")}]

    @staticmethod
    def _rejected(row: Mapping[str, Any], prompt: Messages, images: list[ImageValue]) -> str:
        if row.get("rejected_images") and image_list(row["rejected_images"]) != images:
            raise BadRow("rejected_images are others than images: both answers must be about the same ones")
        if row.get("rejected_messages") is not None:
            other, rejected = split_answer(turns(row["rejected_messages"]))
            if other != [message for message in prompt if message["role"] != "system"] and other != prompt:
                raise BadRow("the two conversations differ before their last answer")
            return rejected
        value = from_json(row["rejected_response"])
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
            value = value[0]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            raise BadRow("rejected_response holds several answers")
        return answer(value, "rejected_response")
