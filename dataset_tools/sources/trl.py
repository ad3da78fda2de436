"""Any preference set in TRL's layout, vision or text: trl-lib/rlaif-v, HuggingFaceH4/rlaif-v_formatted, ...

`prompt`, `chosen` and `rejected` are texts or lists of messages whose content is a text or a list of
{type, text}; without a `prompt` column, `chosen` and `rejected` are whole conversations that share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import (
    BadRow,
    Messages,
    Pair,
    Source,
    answer,
    identifier,
    image_list,
    split_answer,
    turns,
)


class Trl(Source):
    name = "trl"
    about = "any TRL preference set (trl-lib/rlaif-v, HuggingFaceH4/rlaif-v_formatted)"
    columns = ("chosen", "rejected")
    images = "optional"

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        return {"chosen", "rejected"} <= set(columns) and (
            "prompt" in columns or isinstance(columns["chosen"], list)
        )

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        if row.get("prompt") is None:
            prompt, chosen = split_answer(turns(row["chosen"]))
            other, rejected = split_answer(turns(row["rejected"]))
            if prompt != other:
                raise BadRow("there is no prompt, and chosen and rejected differ before their last answer")
        else:
            prompt = self._prompt(row["prompt"])
            chosen, rejected = (answer(row[name], name) for name in ("chosen", "rejected"))
        yield Pair(
            id=identifier(row, "id"),
            images=image_list(row["images"] if "images" in row else row.get("image")),
            prompt=prompt,
            chosen=chosen,
            rejected=rejected,
        )

    @staticmethod
    def _prompt(value: Any) -> Messages:
        return [{"role": "user", "content": value}] if isinstance(value, str) else turns(value)
