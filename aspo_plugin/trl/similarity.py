"""Scores the rows of a dataset that have images and no similarities; later runs read the scores back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.fingerprint import Hasher

from aspo_plugin.training.refusals import RefusedRow, read_row
from aspo_plugin.training.similarity_cache import Row, similarities

from .messages import text_pair
from .rows import sentence_spans

logger = logging.getLogger(__name__)

_COLUMN = "chosen_similarity"
_SCORED = Features({_COLUMN: [Value("float32")]})


def dataset_scorer(model: str, folder: Path | str | None = None) -> Callable[[Dataset], Dataset]:
    """A function that fills `chosen_similarity` of a dataset with the column `images`, by the dual encoder
    `model`, where a row has images and no similarities.

    The scores are kept as `similarity_cache.cache_file` says. A row that will be refused gets none. Raises
    the errors of `dataset_tools.scoring.scorer`.
    """

    def score(dataset: Dataset) -> Dataset:
        given: list[Any] = [None] * len(dataset)
        if _COLUMN in dataset.column_names:
            given = dataset.select_columns([_COLUMN])[:][_COLUMN]
        counts = dataset.select_columns(["images"]).with_format("arrow")
        lengths = [
            length
            for table in counts.iter(1000)
            for length in table["images"].combine_chunks().value_lengths().to_pylist()
        ]
        wanted = [number for number, length in enumerate(lengths) if length and given[number] is None]
        if not wanted:
            return dataset
        found = similarities(
            model, wanted, lambda number: _row(dataset[number]), folder=folder, tell=logger.info
        )
        for number, values in found.items():
            given[number] = values if any(value is not None for value in values) else None
        column = Dataset.from_dict({_COLUMN: given}, _SCORED)
        column._fingerprint = Hasher.hash((dataset._fingerprint, given))  # its own changes from run to run
        kept = [name for name in dataset.column_names if name != _COLUMN]
        return concatenate_datasets([dataset.select_columns(kept), column], axis=1)

    return score


def _row(row: dict[str, Any]) -> Row:
    """A row's images and sentences, or nothing where it will be refused."""
    made = read_row(_sentences, row)
    return ([], []) if isinstance(made, RefusedRow) else made


def _sentences(row: dict[str, Any]) -> Row:
    images = row["images"] or []
    _, chosen, _ = text_pair(row, len(images))
    return images, [chosen[start:end] for start, end in sentence_spans(row, chosen)]
