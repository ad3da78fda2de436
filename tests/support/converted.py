"""A converted dataset as `aspo-data convert` leaves it, written directly from drawn rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

RECORD: dict[str, Any] = {
    "format": 1,
    "source": {
        "name": "rlaif-v",
        "location": "openbmb/RLAIF-V-Dataset",
        "revision": "0123456789abcdef0123456789abcdef01234567",
        "split": "train",
        "license": "cc-by-nc-4.0",
        "citation": "@article{yu2024rlaifv, title={RLAIF-V}}",
        "url": "https://huggingface.co/datasets/openbmb/RLAIF-V-Dataset",
    },
    "tool": {"name": "aspo-plugin", "version": "0.1.0"},
    "splitter": {"name": "blocks and rules around syntok", "version": "1.4.4"},
    "scorer": None,
    "options": {},
    "counts": {"read": 0, "rows": 0, "rejected": 0, "reasons": {}, "sentences": 0},
}


def write(folder: Path | str, shards: Sequence[list[dict[str, Any]]], **record: Any) -> Path:
    """A dataset folder with one parquet file per list of rows; `record` replaces keys of `aspo.json`."""
    import pyarrow as pa

    from dataset_tools.dataset.folder import DATASET_INFO, llamafactory_entry
    from dataset_tools.dataset.parquet import ShardWriter
    from dataset_tools.dataset.record import write_json, write_record
    from dataset_tools.dataset.schema import arrow_schema

    folder = Path(folder)
    (folder / "data").mkdir(parents=True)
    for index, rows in enumerate(shards):
        writer = ShardWriter(folder / "data" / f"train-{index:05}-of-{len(shards):05}.parquet")
        sizes = [sum(len(image["bytes"] or b"") for image in row["images"]) for row in rows]
        writer.write(pa.Table.from_pylist(rows, schema=arrow_schema()), sizes)
        writer.close()
    count = sum(map(len, shards))
    sentences = sum(
        len(row[f"{name}_sentences"]) for rows in shards for row in rows for name in ("chosen", "rejected")
    )
    counts = {"read": count, "rows": count, "rejected": 0, "reasons": {}, "sentences": sentences}
    write_json(folder / DATASET_INFO, {"train": llamafactory_entry()})
    write_record(folder, {**RECORD, "counts": counts, **record})
    return folder
