"""Scores a dataset that has images and no similarities, once; later runs read the scores back."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import Dataset, Features, Value
from datasets.fingerprint import Hasher

from .rows import RefusedRow, sentence_spans, text_pair

logger = logging.getLogger(__name__)

Similarities = list[list[float | None] | None]
SCORED = Features({"chosen_similarity": [Value("float32")]})


def dataset_scorer(model: str, folder: Path | str) -> Callable[[Dataset], Dataset]:
    """A function from a dataset to a column `chosen_similarity`, by the dual encoder `model`.

    The result is kept in `folder`, in a file named by the dataset and the model. A row without images, or one
    that will be refused, has no similarities. Raises the errors of `dataset_tools.scoring.scorer`.
    """

    def score(dataset: Dataset) -> Dataset:
        from dataset_tools.scoring.scorer import SentenceScorer, free_device_memory, identify
        from dataset_tools.sentences import SPLITTER_VERSION

        made_of = (dataset._fingerprint, SPLITTER_VERSION, list(_files(dataset)), identify(model).as_dict())
        key = Hasher.hash(made_of)
        file = Path(folder) / f"{key}.parquet"
        if not file.is_file():
            logger.info(
                "scoring %d pairs with %s; the similarities are kept in %s", len(dataset), model, file
            )
            scorer = SentenceScorer(model)
            scores = scorer.score((images or [], sentences) for images, sentences in _sentences(dataset))
            # Another run may score the same set at the same time.
            partial = file.with_suffix(f".{uuid.uuid4().hex}.partial")
            partial.parent.mkdir(parents=True, exist_ok=True)
            column: Similarities = [
                values if any(v is not None for v in values) else None for values in scores
            ]
            Dataset.from_dict({"chosen_similarity": column}, SCORED).to_parquet(str(partial))
            partial.replace(file)
            del scorer, scores
            free_device_memory()
        return Dataset.from_parquet(str(file), features=SCORED)

    return score


def _sentences(dataset: Dataset) -> Iterator[tuple[list[Any], list[str]]]:
    for row in dataset:
        images = row["images"] or []
        try:
            _, chosen, _ = text_pair(row, len(images))
        except RefusedRow:
            yield [], []
        else:
            yield images, [chosen[start:end] for start, end in sentence_spans(row, chosen)]


def _files(dataset: Dataset) -> Iterator[tuple[str, int, int]]:
    """Size and time of the images that the dataset holds by path, where another picture may be by now."""
    if "images" not in dataset.column_names:
        return
    for table in dataset.select_columns(["images"]).with_format("arrow").iter(1000):
        images = table["images"].combine_chunks().flatten()
        outside = images.filter(pc.is_null(pc.struct_field(images, "bytes")))
        for path in pc.struct_field(outside, "path").to_pylist():
            if path is not None and os.path.exists(path):
                status = os.stat(path)
                yield path, status.st_size, status.st_mtime_ns
