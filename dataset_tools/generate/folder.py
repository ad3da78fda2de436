"""The folder of generated pairs: parquet files in RLAIF-V's columns, which `aspo-data convert` reads.

    OUT/
      data/train-00000-of-00040.parquet   idx (row of the source), image, question, chosen, rejected, ...
      generate.json                       the model, how it was asked, what was counted
      README.md                           the licence and the dataset of the prompts and images, for `convert`
      left_out.jsonl                      rows without a pair (identical or empty answers), if there are any
      rejected.jsonl                      rows that could not be used, with reasons, likewise

Until it is whole it is worked on as `convert` works on its own, see `dataset_tools.dataset.folder`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_tools.convert.locate import GENERATED, Located
from dataset_tools.convert.provenance import generated_by, known_origin, provenance
from dataset_tools.dataset.folder import Workplace
from dataset_tools.share.card import source_card
from dataset_tools.sources.origin import CARD

RECORD = GENERATED
SPLIT = "train"
SCHEMA = pa.schema(
    [
        ("ds_name", pa.string()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("question", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("origin_dataset", pa.string()),
        ("origin_split", pa.string()),
        ("idx", pa.int64()),
        ("image_path", pa.string()),
    ]
)
"""RLAIF-V's columns; `idx` is the row's place in the source, counted from 0."""


class PairsFolder(Workplace):
    """The working folder of one generation."""

    writer = "generate"
    record = RECORD
    beside = (CARD,)
    read_by_llamafactory = False

    def __init__(self, out: Path):
        super().__init__(out, SPLIT)


def card_of(located: Located) -> str:
    """A dataset card with the licence of the prompts and images, which a conversion carries on."""
    made_by = generated_by(located)
    told = provenance(located, known_origin(located, made_by), made_by)
    text = "Pairs of a model's own answers, made by aspo-data generate: generate.json says how."
    return source_card({"location": located.location, **told}, text)


def write_shard(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write pairs into one file, under a partial name until it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, partial, compression="ZSTD", row_group_size=100, write_page_checksum=True)
    with open(partial, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(partial, path)
