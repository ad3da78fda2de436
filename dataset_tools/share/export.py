"""`export`: a converted dataset as the plain layout of another tool, without sentences and similarities."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_tools.dataset.record import read_record, write_json, write_text
from dataset_tools.dataset.schema import IMAGE_MARKER, RESPONSES, count_markers, invariants, iter_rows
from dataset_tools.dataset.workplace import WorkFolder, settled
from dataset_tools.errors import DataError, UsageError
from dataset_tools.share.card import source_card
from dataset_tools.sources.origin import CARD

LAYOUTS = ("llamafactory", "trl")
_COLUMNS = ["id", "images", "prompt", "chosen", "rejected"]
_WRITTEN = (
    r"images/\d{8,}-\d+\.\w+",
    r"data\.jsonl",
    r"dataset_info\.json",
    r"train\.parquet",
    r"README\.md",
)
_SUFFIX = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"GI": ".gif", b"RI": ".webp", b"BM": ".bmp"}


def export(
    folder: Path, target: Path, layout: str, advance: Callable[[int], None] = lambda rows: None
) -> int:
    """Write the dataset into `target`, a new folder; returns the number of rows.

    An export that was stopped is begun anew by the same command.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"--to {layout} is not a known layout: choose one of {', '.join(LAYOUTS)}.")
    target = settled(target, folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already: choose another folder, or remove it.")
    with WorkFolder(target, "export", _WRITTEN) as place:
        # What a stopped export left is written anew; the same names are all that it can hold.
        (place.folder / "images").mkdir(exist_ok=True)
        for stale in (place.folder / "images").iterdir():
            stale.unlink()
        rows = {"llamafactory": _llamafactory, "trl": _trl}[layout](folder, place.folder, advance)
        if layout != "llamafactory":
            (place.folder / "images").rmdir()
        write_text(place.folder / CARD, source_card(read_record(folder)["source"], "Exported by aspo-data."))
        place.name_for_good()
    return rows


def _whole_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """The rows. Raises `DataError` naming one that is not whole; paths in it are never opened."""
    checked = [*(f"{name}_sentences" for name in RESPONSES), "untrained_prefix"]
    for row in iter_rows(folder, [*_COLUMNS, *checked]):
        row["images"] = images = row["images"] or []
        problems = invariants(row)
        problems += [
            f"image {i} has no bytes" for i, image in enumerate(images) if not (image and image["bytes"])
        ]
        if problems:
            raise DataError(
                f"row {row['id']!r} cannot be exported: {problems[0]}. `aspo-data validate` names all."
            )
        yield row


def with_markers(prompt: list[dict[str, str]], images: int) -> list[dict[str, str]]:
    """The prompt with one `<image>` marker per image: those it has, or else before its first user turn."""
    if not images or count_markers(prompt):
        return prompt
    first = next(index for index, message in enumerate(prompt) if message["role"] == "user")
    text = (IMAGE_MARKER + "\n") * images + prompt[first]["content"]
    return [*prompt[:first], {"role": "user", "content": text}, *prompt[first + 1 :]]


def _llamafactory(folder: Path, target: Path, advance: Callable[[int], None]) -> int:
    """`data.jsonl` in the sharegpt ranking form, images as files, and the `dataset_info.json` for both."""
    count = 0
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    with open(target / "data.jsonl", "w", encoding="utf-8", newline="\n") as stream:
        for row in _whole_rows(folder):
            paths = []
            for index, image in enumerate(row["images"]):
                name = f"images/{count:08}-{index}{_SUFFIX.get(image['bytes'][:2], '.img')}"
                (target / name).write_bytes(image["bytes"])
                paths.append(name)
            prompt = with_markers(row["prompt"], len(paths))
            item = {
                "id": row["id"],
                "conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in prompt],
                "chosen": {"from": "gpt", "value": row["chosen"][0]["content"]},
                "rejected": {"from": "gpt", "value": row["rejected"][0]["content"]},
                "images": paths,
            }
            stream.write(json.dumps(item, ensure_ascii=False) + "\n")
            count += 1
            advance(1)
    columns = {"messages": "conversations", **{name: name for name in ("chosen", "rejected", "images")}}
    entry = {"file_name": "data.jsonl", "formatting": "sharegpt", "ranking": True, "columns": columns}
    write_json(target / "dataset_info.json", {"train": entry})
    return count


def _trl(folder: Path, target: Path, advance: Callable[[int], None]) -> int:
    """`train.parquet` in TRL's vision preference form: contents are lists of {type, text}."""
    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    value = {"dtype": "string", "_type": "Value"}
    feature = [{"role": value, "content": [{"type": value, "text": value}]}]
    features = {"id": value, "images": [{"_type": "Image"}], **dict.fromkeys(_COLUMNS[2:], feature)}
    schema = pa.schema(
        [("id", pa.string()), ("images", image), *((name, messages) for name in _COLUMNS[2:])],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    count = 0
    with (
        open(target / "train.parquet", "wb") as stream,
        pq.ParquetWriter(stream, schema, use_dictionary=False) as writer,
    ):
        for rows in _batched(_whole_rows(folder), 64):
            items = [
                {
                    "id": row["id"],
                    "images": row["images"],
                    "prompt": typed(with_markers(row["prompt"], len(row["images"]))),
                    "chosen": typed(row["chosen"]),
                    "rejected": typed(row["rejected"]),
                }
                for row in rows
            ]
            writer.write_table(pa.Table.from_pylist(items, schema=schema))
            count += len(rows)
            advance(len(rows))
    return count


def typed(messages: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Messages with their content as a list of {type, text}; a marker becomes an image part."""
    typed_messages = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for index, text in enumerate(message["content"].split(IMAGE_MARKER)):
            if index:
                parts.append({"type": "image", "text": None})
                text = text.removeprefix("\n")
            if text:
                parts.append({"type": "text", "text": text})
        typed_messages.append({"role": message["role"], "content": parts})
    return typed_messages


def _batched(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    held = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held
