"""The datasets of an Axolotl config, prepared for ASPO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from aspo_plugin.training.refused_rows import RefusedRows
from aspo_plugin.trl.rows import LengthLimit

from .arguments import NAME, settings_of

if TYPE_CHECKING:
    from datasets import Dataset


logger = logging.getLogger(__name__)


def limit_of(cfg: Any) -> LengthLimit:
    """Axolotl's `sequence_len` and `excess_length_strategy` (`drop` where not set, as everywhere there)."""
    return LengthLimit(cfg.sequence_len, cfg.excess_length_strategy or "drop", "sequence_len")


@contextmanager
def listed(cfg: Any) -> Iterator[list[dict[str, Any]]]:
    """Gathers what is known of the rows that are left out, and writes it to the output folder at the end,
    also where the data cannot be used. For one process at a time."""
    rows: list[dict[str, Any]] = []
    try:
        yield rows
    finally:
        refused_rows = RefusedRows(cfg.output_dir)
        refused_rows.clear()
        refused_rows.add(rows)
        if rows and cfg.local_rank == 0:
            logger.warning("%d pairs are left out, each listed in %s", len(rows), refused_rows.path)


def name_of(entry: Mapping[str, Any]) -> str:
    """How messages call an entry of `datasets`."""
    return str(entry["path"] + (f", split {entry['split']}" if entry.get("split") else ""))


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
    refused: Callable[[list[dict[str, Any]]], None],
) -> Dataset:
    """The prepared rows of one entry of `datasets` or `test_datasets`.

    Args:
        load: reads an entry.
        transform: from an Axolotl `type` and the index of its entry to a function that makes its plain rows.
        score: from a model to a function that scores a dataset.
        refused: takes the rows that are left out, see `prepare_dataset`.
    """
    from aspo_plugin.trl.datasets import prepare_dataset

    dataset = pick_split(load(entry), entry)
    if entry.get("type"):
        dataset = transform(entry["type"], index)(dataset)
    if cfg.chat_template_kwargs:
        dataset = with_template_options(dataset, dict(cfg.chat_template_kwargs), entry)
    settings = settings_of(cfg)
    model = settings.similarity_model
    return prepare_dataset(
        dataset,
        processing_class,
        alpha=settings.alpha,
        limit=limit_of(cfg),
        name=name_of(entry),
        refused=refused,
        num_proc=cfg.dataset_num_proc,
        score=score(model) if model else None,
        setting_name=NAME,
        weight_rejected=settings.weight_rejected,
        given=settings.weighting == "given",
    )


def with_template_options(dataset: Dataset, options: dict[str, Any], entry: Mapping[str, Any]) -> Dataset:
    """The rows with `chat_template_kwargs` of the config for their chat template, where they have none of
    their own by that name. Raises `ValueError` for a `type` that has rendered them already, without."""
    first: dict[str, Any] = next(iter(dataset), {})
    if entry.get("type") and isinstance(first.get("prompt"), str):
        raise ValueError(
            f"chat_template_kwargs: {options} would change nothing in {name_of(entry)}, for `type: "
            f"{entry['type']}` of Axolotl renders its texts without them. Remove one of the two."
        )
    name = "chat_template_kwargs"
    given: list[Any] = [None] * len(dataset)
    if name in dataset.column_names:
        given = dataset.select_columns([name])[:][name]
        dataset = dataset.remove_columns(name)
    own = ({key: value for key, value in (row or {}).items() if value is not None} for row in given)
    return dataset.add_column(name, [{**options, **row} for row in own])
