"""Any preference set in TRL's layout, vision or text: trl-lib/rlaif-v, HuggingFaceH4/rlaif-v_formatted, ...

`prompt`, `chosen` and `rejected` are texts or lists of messages whose content is a text or a list of
{type, text}. Whole conversations in `chosen` and `rejected` share their prompt; a `prompt` column beside them
repeats it.
"""

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
    images_of,
    is_conversation,
    prompt_of,
    two_answers,
)


class Trl(Source):
    name = "trl"
    about = "any TRL preference set (trl-lib/rlaif-v, yifanzhang114/MM-RLHF, PhoenixZ/OmniAlign-V-DPO)"
    columns = ("chosen", "rejected")
    images = "optional"
    published = ("dpo_pairs.jsonl",)

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        if not {"chosen", "rejected"} <= set(columns):
            return False
        return "prompt" in columns or isinstance(from_json(columns["chosen"]), list)

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        held: list[ImageValue] = []
        chosen, rejected = from_json(row["chosen"]), from_json(row["rejected"])
        if row.get("prompt") is None or (is_conversation(chosen) and is_conversation(rejected)):
            prompt, better, worse = two_answers(chosen, rejected, held)
            if row.get("prompt") is not None:
                _check_prompt(row["prompt"], prompt)
        else:
            prompt = prompt_of(row["prompt"], held)
            better, worse = answer(chosen, "chosen"), answer(rejected, "rejected")
        yield Pair(
            id=identifier(row, "id"),
            images=images_of(row, self.image_columns, held),
            prompt=prompt,
            chosen=better,
            rejected=worse,
        )


def _check_prompt(value: Any, prompt: Messages) -> None:
    """Raise `BadRow` where a prompt column says something else than the conversations beside it."""
    stated = prompt_of(value, [])
    said = [message["content"].strip() for message in prompt]
    if [message["content"].strip() for message in stated] == said:
        return
    if len(stated) != 1 or stated[0]["content"].strip() not in said:
        raise BadRow("the prompt is not the one of the conversations in chosen and rejected")
