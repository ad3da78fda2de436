"""The demo's raw data: own answers to drawn scenes, clean and noised, in RLAIF-V's layout."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from study.pairs import Pairs
from study.sentences import sentences_and_facts, true_facts


def png(picture: np.ndarray) -> bytes:
    """The picture as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def write_rlaif_v(folder: Path, pairs: Pairs) -> None:
    """One parquet file of pairs, as RLAIF-V's own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from study.models import QUESTION

    records = [
        {
            "ds_name": "demo",
            "image": {"bytes": png(picture), "path": f"{number}.png"},
            "question": QUESTION,
            "chosen": chosen,
            "rejected": rejected,
            "origin_dataset": "drawn",
            "origin_split": json.dumps({"model": "small llava", "type": "scenes"}),
            "idx": str(number),
            "image_path": f"{number}.png",
        }
        for number, (picture, chosen, rejected) in enumerate(
            zip(pairs.pictures, pairs.texts["chosen"], pairs.texts["rejected"], strict=True)
        )
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), folder / "demo_000.parquet")


def with_random_similarities(source: Path, target: Path, seed: int) -> None:
    """A copy of a scored dataset whose similarities are random numbers: the control."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(source, target)
    rng = random.Random(seed)
    for file in sorted((target / "data").glob("*.parquet")):
        table = pq.read_table(file)
        place = table.column_names.index("chosen_similarity")
        column = table.column(place)
        values = [[rng.random() for _ in row] if row is not None else None for row in column.to_pylist()]
        pq.write_table(table.set_column(place, table.field(place), pa.array(values, column.type)), file)


def scored_sentences(dataset: Path, pairs: Pairs) -> tuple[list[float], list[float]]:
    """Similarities of the true and of the false sentences of the chosen answers, from the scored dataset."""
    import pyarrow.parquet as pq

    scene_of: dict[str, Any] = dict(zip(pairs.texts["chosen"], pairs.scenes, strict=True))
    found: tuple[list[float], list[float]] = ([], [])
    for file in sorted((dataset / "data").glob("*.parquet")):
        for row in pq.read_table(file, columns=["chosen", "chosen_similarity"]).to_pylist():
            text = row["chosen"][0]["content"]
            true = true_facts(scene_of[text])
            for (_, fact), score in zip(sentences_and_facts(text), row["chosen_similarity"], strict=True):
                found[0 if fact in true else 1].append(score)
    return found
