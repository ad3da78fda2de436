"""Rows with any column names, given on the command line: `--column prompt=question --column images=file`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.sources.base import Pair, Source, answer, identifier, image_list, turns

COLUMNS = ("prompt", "chosen", "rejected", "images", "id", "system")


class JsonLines(Source):
    name = "jsonl"
    about = "plain JSONL (or JSON, or parquet) with a column mapping: --column prompt=question ..."
    columns = ("prompt", "chosen", "rejected")
    images = "optional"

    @classmethod
    def matches(cls, columns: Mapping[str, Any]) -> bool:
        return set(cls.columns) <= set(columns)

    def missing(self, columns: Mapping[str, Any]) -> list[str]:
        mapped = self.options.columns
        needed = [mapped.get(name, name) for name in COLUMNS if name in self.columns or name in mapped]
        return [name for name in needed if name not in columns]

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair]:
        value = {name: row.get(self.options.columns.get(name, name)) for name in COLUMNS}
        prompt = value["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else turns(prompt)
        if value["system"]:
            messages.insert(0, {"role": "system", "content": str(value["system"])})
        yield Pair(
            id=identifier(value, "id"),
            images=image_list(value["images"]),
            prompt=messages,
            chosen=answer(value["chosen"], "chosen"),
            rejected=answer(value["rejected"], "rejected"),
        )
