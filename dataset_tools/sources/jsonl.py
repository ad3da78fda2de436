"""Rows with any column names, given on the command line: `--column prompt=question --column images=file`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import (
    BadRow,
    ImageValue,
    Pair,
    Source,
    answer,
    from_json,
    identifier,
    image_list,
    images_of,
    is_conversation,
    prompt_of,
    two_answers,
)

COLUMNS = ("prompt", "chosen", "rejected", "images", "id", "system")


class JsonLines(Source):
    name = "jsonl"
    about = "any rows (JSON lines, JSON, parquet, CSV) with a column mapping: --column prompt=question ..."
    columns = ("prompt", "chosen", "rejected")
    mapped = COLUMNS
    images = "optional"

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        return set(cls.columns) <= set(columns)

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        mapped = self.options.columns
        needed = [mapped.get(name, name) for name in COLUMNS if name in self.columns or name in mapped]
        return [each for name in needed for each in name.split(",") if each not in columns]

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        value = {name: row.get(self.options.columns.get(name, name)) for name in COLUMNS}
        held: list[ImageValue] = []
        chosen, rejected = from_json(value["chosen"]), from_json(value["rejected"])
        if is_conversation(chosen) and is_conversation(rejected):
            messages, chosen, rejected = two_answers(chosen, rejected, held)
        else:
            messages = prompt_of(value["prompt"], held)
        if value["system"]:
            if not isinstance(value["system"], str):
                raise BadRow(f"system is not a text but {type(value['system']).__name__}")
            messages.insert(0, {"role": "system", "content": value["system"]})
        yield Pair(
            id=identifier(value, "id"),
            images=self._images(row, held),
            prompt=messages,
            chosen=answer(chosen, "chosen"),
            rejected=answer(rejected, "rejected"),
        )

    def _images(self, row: Mapping[str, Any], held: list[ImageValue]) -> list[ImageValue]:
        """Those of the named column, or of several (`--column images=image_1,image_2`), in their order; where
        none is named, of `images` or `image`."""
        mapped = self.options.columns.get("images")
        if mapped is None:
            return images_of(row, self.image_columns, held)
        found = [image for name in mapped.split(",") for image in image_list(row.get(name))]
        if found and held and found != held:
            raise BadRow("images are both in the messages and in a column")
        return found or held
