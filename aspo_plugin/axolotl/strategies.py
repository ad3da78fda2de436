"""Axolotl's prompt strategies, which an entry of `datasets` names by `type`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from .contract import strategies_keep_images


def transform(cfg: Any, key: str) -> Callable[[Any, int], Callable[[Any], Any]]:
    """From a `type` and the index of its entry in `datasets` or `test_datasets` (`key`) to a function.

    That function makes `prompt`, `chosen` and `rejected` of a dataset, and keeps its images where the type
    gives messages.
    """
    from axolotl.loaders import load_tokenizer
    from axolotl.prompt_strategies.dpo import load
    from axolotl.utils.dict import DictDefault

    # Strategies read their entry from `datasets`, also those of `test_datasets`.
    own = DictDefault({**cfg, "datasets": cfg[key]})

    def of_type(kind: Any, index: int) -> Callable[[Any], Any]:
        strategy = load(
            "user_defined.default" if isinstance(kind, DictDefault) else kind, own, dataset_idx=index
        )
        if strategy is None:
            raise ValueError(f"type: {kind} of {key} is no prompt strategy of Axolotl; see the log above.")
        function = strategy[0] if isinstance(strategy, tuple) else strategy
        if "tokenizer" in inspect.signature(function).parameters:
            function = functools.partial(function, tokenizer=load_tokenizer(cfg))
        return lambda dataset: _apply(dataset, function, kind, cfg[key][index]["path"])

    return of_type


def _apply(dataset: Any, function: Callable[[dict[str, Any]], dict[str, Any]], kind: Any, path: str) -> Any:
    """What a strategy makes of a dataset. It is shown that there are images, and not given any."""
    from datasets import concatenate_datasets

    images = [name for name in ("images", "image") if name in dataset.column_names]
    texts = dataset.remove_columns(images)
    # Under their own names, `datasets` would press what is made of these columns into their types.
    sources = {name: f"source_{name}" for name in texts.column_names}

    def made(row: dict[str, Any]) -> dict[str, Any]:
        sample = {name: row[source] for name, source in sources.items()}
        result = function(sample | dict.fromkeys(images))
        return {name: result[name] for name in ("prompt", "chosen", "rejected")}

    dropped = ValueError(
        f"{path} has images, which `type: {kind}` of Axolotl would drop. Remove `type`: rows with prompt (or "
        "messages), chosen and rejected are read as they are."
    )
    if images and not strategies_keep_images():
        raise dropped
    renamed = texts.rename_columns(sources)
    try:
        first = made(renamed[0])
    except KeyError as error:
        raise ValueError(
            f"`type: {kind}` of Axolotl reads {error} of {path}, whose columns are "
            f"{', '.join(dataset.column_names)}: name the columns by field_messages, field_chosen and "
            "field_rejected, or take another type."
        ) from error
    if images and isinstance(first["prompt"], str):
        raise dropped
    mapped = renamed.map(made, remove_columns=list(sources.values()), desc=f"Applying {kind}")
    return concatenate_datasets([mapped, dataset.select_columns(images)], axis=1) if images else mapped
