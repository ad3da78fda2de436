"""Any ranking file of LLaMA-Factory, in its `sharegpt`, `messages` or `alpaca` form; Axolotl's `messages`
form.

Column and tag names follow the `dataset_info.json` beside the file where it has an entry for it, and
`--column` (`messages`, `chosen`, `rejected`, `images`, `system`, `prompt`, `query`, `history`) above that.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataset_tools.errors import UsageError
from dataset_tools.sources.base import (
    BadRow,
    ImageValue,
    Messages,
    Options,
    Pair,
    Source,
    answer,
    identifier,
    images_of,
    turns,
)

DEFAULTS = {
    "messages": "conversations",
    "prompt": "instruction",
    "query": "input",
    "history": "history",
    "system": "system",
    "images": "images",
    "chosen": "chosen",
    "rejected": "rejected",
    "id": "id",
}


class LlamaFactory(Source):
    name = "llamafactory"
    about = "any LLaMA-Factory ranking file (llamafactory/RLHF-V); Axolotl's chat_template.default"
    columns = ("conversations", "chosen", "rejected")
    mapped = tuple(DEFAULTS)
    images = "optional"

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        return {"chosen", "rejected"} <= set(columns) and bool(
            {"conversations", "messages", "instruction"} & set(columns)
        )

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        prompt = [self._name("messages"), *self._also(), self._name("prompt")]
        answers = [self._name("chosen"), self._name("rejected")]
        without = [" or ".join(prompt)] if not set(prompt) & set(columns) else []
        return without + [name for name in answers if name not in columns]

    def _name(self, key: str) -> str:
        return self.options.columns.get(key, DEFAULTS[key])

    def _also(self) -> list[str]:
        """The other usual name of the conversation, where the user has not named it."""
        return [] if "messages" in self.options.columns else ["messages"]

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        tags = self.options.tags
        held: list[ImageValue] = []
        prompt = self._prompt(row, held)
        image = () if "images" in self.options.columns else ("image",)
        yield Pair(
            id=identifier(row, self._name("id")),
            images=images_of(row, (self._name("images"), *image), held),
            prompt=prompt,
            chosen=answer(row[self._name("chosen")], "chosen", tags),
            rejected=answer(row[self._name("rejected")], "rejected", tags),
        )

    def _prompt(self, row: Mapping[str, Any], held: list[ImageValue]) -> Messages:
        named = next((name for name in (self._name("messages"), *self._also()) if name in row), None)
        if named:
            messages = turns(row[named], self.options.tags, held)
        else:
            messages = self._alpaca(row)
        system = row.get(self._name("system"))
        if system and messages[0]["role"] != "system":
            if not isinstance(system, str):
                raise BadRow(f"system is not a text but {type(system).__name__}")
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def _alpaca(self, row: Mapping[str, Any]) -> Messages:
        messages = []
        history = row.get(self._name("history")) or []
        for turn in history if isinstance(history, list) else [history]:
            if (
                not isinstance(turn, list)
                or len(turn) != 2
                or not all(isinstance(said, str) for said in turn)
            ):
                raise BadRow("history is not a list of [question, answer]")
            messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
        parts = [row.get(self._name(key)) for key in ("prompt", "query")]
        if not all(part is None or isinstance(part, str) for part in parts):
            raise BadRow("instruction or input is not a text")
        return [*messages, {"role": "user", "content": "\n".join(part for part in parts if part)}]


def options_beside(path: Path, options: Options) -> Options:
    """`options` with the names that a `dataset_info.json` beside the file gives its columns and tags."""
    info = path.parent / "dataset_info.json"
    if not info.is_file():
        return options
    try:
        entries = json.loads(info.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{info} is not readable JSON: {error}") from None
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict) and entry.get("file_name") == path.name:
            columns, tags = (_names(entry, key, f"{info}, entry {name}") for key in ("columns", "tags"))
            return replace(options, columns={**columns, **options.columns}, tags={**tags, **options.tags})
    return options


def _names(entry: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """The mapping of names under a key of an entry of `dataset_info.json`."""
    found = entry.get(key) or {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError(f"{where}: {key!r} is not a mapping of names to names: correct it, or remove it.")
    return found
