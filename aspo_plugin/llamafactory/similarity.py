"""`aspo_similarity_model`: scores in one pass before preprocessing, kept on disk for the next run."""

from __future__ import annotations

from typing import Any

from llamafactory.extras import logging

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.given_numbers import no_numbers
from aspo_plugin.training.refusals import RefusedRow, checked_spans, read_row
from aspo_plugin.training.similarity_cache import Row, similarities

from .checks import STREAM_PEEK, has_value, no_rejected, no_similarities

logger = logging.get_logger("llamafactory.aspo")


def check_similarities(dataset: Any, name: str, settings: AspoSettings) -> None:
    """Refuse an aligned dataset that has images and no similarity of a needed kind. Raises `ValueError`."""
    sides = ("chosen", "rejected") if settings.weight_rejected else ("chosen",)
    rows = None if hasattr(dataset, "__len__") else list(dataset.take(STREAM_PEEK))
    for side in sides:
        column = f"_{side}_similarity"
        if rows is None:
            images, known = has_value(dataset.data.column("_images")), has_value(dataset.data.column(column))
        else:
            images = any(row["_images"] for row in rows)
            known = any(value is not None for row in rows for value in row[column] or [])
        if images and not known:
            told = name if rows is None else f"{name} (its first {len(rows)} rows)"
            if settings.weighting == "given":
                raise no_numbers(f"dataset {told}", side)
            raise no_similarities(told, settings.alpha) if side == "chosen" else no_rejected(told)


def sentences_of(row: dict[str, Any]) -> Row:
    """The images of an aligned row and the sentences of its chosen response; nothing where it is refused."""
    if not row["_response"] or row["_response"][0]["content"] is None:
        return [], []
    text = row["_response"][0]["content"]
    made = read_row(checked_spans, row["_chosen_sentences"], text, "chosen")
    return ([], []) if isinstance(made, RefusedRow) else (row["_images"], [text[a:b] for a, b in made])


def attach_similarities(dataset: Any, model: str, cache_dir: str | None, device: Any = None) -> Any:
    """Fill `_chosen_similarity` of the aligned rows that have images and no similarities.

    Kept as `similarity_cache.cache_file` says. The host lets the main process of each machine do this first;
    the others then find every row in the file.
    """
    from datasets import Sequence, Value

    wanted = [
        i
        for i, (images, similarity) in enumerate(
            zip(dataset.data.column("_images"), dataset.data.column("_chosen_similarity"), strict=True)
        )
        if images.is_valid and len(images) and not similarity.is_valid
    ]
    if not wanted:
        return dataset
    found = similarities(
        model,
        wanted,
        lambda i: sentences_of(dataset[i]),
        folder=cache_dir,
        device=device,
        tell=logger.info_rank0,
    )
    values = dataset.data.column("_chosen_similarity").to_pylist()
    for i, similarity in found.items():
        values[i] = similarity
    feature = Sequence(Value("float32"))
    return (
        dataset.remove_columns("_chosen_similarity")
        .add_column("_chosen_similarity", values)
        .cast_column("_chosen_similarity", feature)
    )
