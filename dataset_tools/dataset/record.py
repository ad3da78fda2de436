"""`aspo.json`: where a converted dataset comes from and what was done to it, kept beside the parquet files.

`convert` writes it; `score` adds `scorer`; `push` makes the dataset card of it. The keys:

| Key | Content |
|---|---|
| `format` | version of this layout, 1 |
| `source` | `name` (of `--from`), `location`, `revision`, `split`, `license`, `citation`, `url` |
| `tool` | `name`, `version` |
| `splitter` | `name`, `version` |
| `scorer` | null, or `model`, `revision` and what `score` adds |
| `options` | the settings that shaped the rows |
| `counts` | `read`, `rows`, `rejected`, `reasons` (reason to count), `sentences` |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dataset_tools.errors import UsageError

RECORD = "aspo.json"
FORMAT = 1


def write_text(path: Path | str, text: str) -> None:
    """Write a small file so that it is either the old one or the whole new one, also after a power cut."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, path)


def write_json(path: Path | str, value: Any) -> None:
    """`write_text` of an indented JSON document; what is not Unicode (a file's name) is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def read_record(folder: Path | str) -> dict[str, Any]:
    """The record of a converted dataset. Raises `UsageError` where the folder is not one."""
    path = Path(folder) / RECORD
    if not path.is_file():
        raise UsageError(
            f"{folder} has no {RECORD}, so it is not a dataset that `aspo-data convert` made. "
            "Give the OUT folder of `aspo-data convert`, or one that `aspo-data pull` fetched."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise UsageError(f"{path} has format {found!r}; this version of aspo-data reads format {FORMAT}.")
    return record


def write_record(folder: Path | str, record: dict[str, Any]) -> None:
    """Replace the record of a converted dataset."""
    write_json(Path(folder) / RECORD, record)
