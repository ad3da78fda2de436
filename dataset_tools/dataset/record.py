"""`aspo.json`: where a converted dataset comes from and what was done to it, kept beside the parquet files.

`convert` writes it; `score` adds `scorer`; `push` makes the dataset card of it. The keys:

| Key | Content |
|---|---|
| `format` | version of this layout, 1 |
| `source` | `name` (of `--from`), `location`, `revision`, `split`, `license`, `license_from`, ... |
| `tool` | `name`, `version` |
| `splitter` | `name`, `version` |
| `scorer` | null, or `model`, `revision` and what `score` adds |
| `generated` | null, or of generated pairs what generate.json says of source, models and recipe |
| `options` | the settings that shaped the rows |
| `counts` | `read`, `rows`, `rejected`, `reasons` (reason to count), `sentences` |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dataset_tools.errors import UsageError
from dataset_tools.nearest import nearest_path

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


def prepare_page(path: Path) -> None:
    """Make the folder of a file that is to be written. Raises `UsageError` where `path` cannot be one."""
    on_this_machine(path, made=True, command="cp")
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)


def on_this_machine(path: Path | str, made: bool = False, command: str = "sync") -> None:
    """Raise `UsageError` for an address (s3://bucket/out), which would become a folder of that name.

    `made`: it is to be made, and not there already; `command`: the one of `aws s3` that copies it.
    """
    kind, found, rest = str(path).partition(":/")
    if not found or not kind.isalnum() or len(kind) == 1:  # one letter is a drive
        return
    address = f"{kind}://{rest.lstrip('/')}"
    here = address.rstrip("/").rpartition("/")[2]
    copy = f"`aws s3 {command} {here} {address}`" if made else f"`aws s3 {command} {address} {here}`"
    ways = {
        "s3": f"by {copy}, or mount the bucket with s3fs (docs/scoring.md)",
        "hf": "by `aspo-data push`" if made else "by `aspo-data pull`",
    }
    how = ways.get(kind, "by that store's own command")
    raise UsageError(
        f"{address} is an address, and aspo-data works on files and folders: "
        + (f"give one here, and copy it when it is whole, {how}." if made else f"fetch it, {how}.")
    )


def read_record(folder: Path | str) -> dict[str, Any]:
    """The record of a converted dataset. Raises `UsageError` where the folder is not one."""
    on_this_machine(folder)
    path = Path(folder) / RECORD
    if not os.path.exists(folder):
        raise UsageError(f"{folder} does not exist.{nearest_path(folder)}")
    if not path.is_file():
        raise UsageError(
            f"{folder} has no {RECORD}, so it is not a dataset that `aspo-data convert` made. "
            "Give the OUT folder of `aspo-data convert`, or one that `aspo-data pull` fetched."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise UsageError(f"{path} has format {found!r}; this version of aspo-data reads format {FORMAT}.")
    wrong = _wrong_part(record)
    if wrong:
        raise UsageError(
            f"{path} is not as aspo-data writes it: {wrong}. Convert or fetch the dataset again."
        )
    return record


def _wrong_part(record: dict[str, Any]) -> str | None:
    """What keeps a record from being read by every command; it may come from a stranger."""
    texts = {"source": ("name",), "tool": ("name", "version"), "splitter": ("name", "version")}
    optional = {"source": ("location", "revision", "split", "license", "license_from", "citation", "url")}
    for part, names in texts.items():
        value = record.get(part)
        if not isinstance(value, dict):
            return f"{part} is not an object"
        for name in names:
            if not isinstance(value.get(name), str):
                return f"{part}.{name} is not a text"
        for name in optional.get(part, ()):
            if not isinstance(value.get(name), str | None):
                return f"{part}.{name} is not a text"
    counts, scorer = record.get("counts"), record.get("scorer")
    if not isinstance(counts, dict):
        return "counts is not an object"
    for name in ("read", "rows", "rejected", "sentences"):
        if not isinstance(counts.get(name), int) or counts[name] < 0:
            return f"counts.{name} is not a number"
    for name in ("reasons", "skipped"):
        found = counts.get(name, {})
        if not isinstance(found, dict) or not all(isinstance(count, int) for count in found.values()):
            return f"counts.{name} is not a table of counts"
    if not isinstance(record.get("options", {}), dict):
        return "options is not an object"
    datasets = record["source"].get("source_datasets") or []
    if not isinstance(datasets, list) or not all(isinstance(name, str) for name in datasets):
        return "source.source_datasets is not a list of texts"
    if not _says_how_generated(record.get("generated")):
        return "generated does not say by which model"
    if scorer is not None and (not isinstance(scorer, dict) or not isinstance(scorer.get("model"), str)):
        return "scorer has no model"
    if scorer and not isinstance(scorer.get("counts", {}), dict):
        return "scorer.counts is not an object"
    return None


def _says_how_generated(made: Any) -> bool:
    """Whether `generated` of a record is null, or as `convert` takes it from what `generate` wrote."""
    if made is None:
        return True
    parts = isinstance(made, dict) and all(isinstance(made.get(name), dict) for name in ("models", "recipe"))
    if not parts or not all(isinstance(model, dict) for model in made["models"].values()):
        return False
    named = isinstance(made["models"].get("answers", {}).get("model"), str)
    return named and isinstance(made.get("sampling") or {}, dict)


def write_record(folder: Path | str, record: dict[str, Any]) -> None:
    """Replace the record of a converted dataset."""
    write_json(Path(folder) / RECORD, record)
