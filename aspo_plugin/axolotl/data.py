"""The datasets of an Axolotl config, prepared for ASPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aspo_plugin.trl.rows import LengthLimit

from .args import NAME

if TYPE_CHECKING:
    from datasets import Dataset


def limit_of(cfg: Any) -> LengthLimit:
    """Axolotl's `sequence_len` and `excess_length_strategy` (`drop` where not set, as everywhere there)."""
    return LengthLimit(cfg.sequence_len, cfg.excess_length_strategy or "drop", "sequence_len")


def pick_split(loaded: Any, entry: Mapping[str, Any]) -> Dataset:
    """One dataset of what `load_dataset` gave; `ValueError` listing the splits where there is no `train`."""
    if not isinstance(loaded, dict):
        return loaded
    if "train" not in loaded:
        raise ValueError(
            f"{entry['path']} has no split train: add `split:` with one of {', '.join(loaded)} to its entry."
        )
    return loaded["train"]


def prepared_entry(
    cfg: Any,
    entry: Mapping[str, Any],
    index: int,
    processing_class: Any,
    load: Callable[[Mapping[str, Any]], Any],
    transform: Callable[[Any, int], Callable[[Dataset], Dataset]],
    score: Callable[[str], Any],
) -> Dataset:
    """The prepared rows of one entry of `datasets` or `test_datasets`.

    Args:
        load: reads an entry.
        transform: from an Axolotl `type` and the index of its entry to a function that makes its plain rows.
        score: from a model to a function that scores a dataset.
    """
    from aspo_plugin.trl.data import prepare_dataset

    dataset = pick_split(load(entry), entry)
    if entry.get("type"):
        if {"image", "images"} & set(dataset.column_names):
            raise ValueError(
                f"{entry['path']} has images, which `type: {entry['type']}` of Axolotl would drop. "
                "Remove `type`: rows with prompt, chosen and rejected messages are read as they are."
            )
        dataset = transform(entry["type"], index)(dataset)
    settings = cfg.aspo or {}
    model = settings.get("similarity_model")
    return prepare_dataset(
        dataset,
        processing_class,
        alpha=settings.get("alpha", 0.5),
        limit=limit_of(cfg),
        name=entry["path"],
        num_proc=cfg.dataset_num_proc,
        score=score(model) if model else None,
        setting_name=NAME,
    )
