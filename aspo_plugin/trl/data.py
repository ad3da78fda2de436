"""Whole datasets: from any of TRL's preference shapes, or one made by `aspo-data`, to prepared rows."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets import Image as ImageFeature
from datasets.fingerprint import Hasher

from .rows import LengthLimit, RefusedRow, RowPreparer

logger = logging.getLogger(__name__)

# Raised when the result of preparing a row changes, so that nothing prepared by older code is read back.
PREPARE_VERSION = 1

_IMAGE = {"bytes": Value("binary"), "path": Value("string")}
_PREPARED = Features(
    {
        "prompt": Value("string"),
        "prompt_ids": [Value("int32")],
        "chosen_ids": [Value("int32")],
        "rejected_ids": [Value("int32")],
        "sentence_ids": [Value("int32")],
        "similarity": [Value("float32")],
    }
)
_REFUSED = "refused"
_IMAGE_COLUMNS = ("images", "image")
COLUMNS = tuple(_PREPARED)


def is_prepared(dataset: Dataset) -> bool:
    """Whether `prepare_dataset` made it."""
    return set(COLUMNS) <= set(dataset.column_names)


def prepare_dataset(
    dataset: Dataset,
    processing_class: Any,
    *,
    alpha: float,
    limit: LengthLimit | None = None,
    name: str = "the dataset",
    num_proc: int | None = None,
    score: Callable[[Dataset], list[list[float | None] | None]] | None = None,
    setting_name: str = "aspo_{}",
) -> Dataset:
    """All that can be done to the pairs before a model is there; done once, the collator does the rest.

    Renders the chat template, tokenizes, places the sentences on the tokens, applies the length limit and
    checks every row. Rows without `chosen_sentences` are split by `dataset_tools.sentences`. Images stay the
    encoded bytes or paths they are. Rows that cannot be trained are left out, counted and logged.

    Args:
        dataset: `prompt`, `chosen`, `rejected` as TRL takes them (messages, implicit prompt or plain text),
            with `images` or `image`, `chosen_sentences` and `chosen_similarity` where there are.
        processing_class: the model's processor, or its tokenizer for text only.
        alpha: the setting; above 0 a data set with images needs similarities.
        limit: what to do with long rows.
        name: how messages call the dataset.
        num_proc: processes for the rows.
        score: gives one list of similarities per row for a dataset that has images and no similarities.
        setting_name: how the host's user writes a setting.

    Returns:
        Prepared rows (`COLUMNS`), with `images` (list of {bytes, path}) where there is a processor.

    Raises:
        ValueError: columns missing, images without a processor, no similarities though alpha > 0, an
            annotation that contradicts its text, or no row left.
    """
    if is_prepared(dataset):
        return dataset
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{name} is a {type(dataset).__name__}: ASPO checks every row before training, so load it whole."
        )
    missing = [column for column in ("chosen", "rejected") if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"{name} has no column {' or '.join(missing)}; it has {', '.join(dataset.column_names)}. "
            "ASPO needs preference pairs: prompt, chosen and rejected."
        )
    dataset = _with_images(dataset)
    preparer = RowPreparer(processing_class, limit or LengthLimit())
    image_rows = _rows_with_images(dataset)
    if image_rows and preparer.processor is None:
        raise ValueError(
            f"{name} has images, but {type(processing_class).__name__} is a tokenizer: choose a "
            "vision-language model, or drop the images column."
        )
    if alpha > 0 and image_rows and not _any_similarity(dataset, image_rows):
        if score is None:
            raise ValueError(
                f"{name} has images but no similarities, and `{setting_name.format('alpha')}` is {alpha}. "
                f"Score it with `aspo-data score`, or set `{setting_name.format('similarity_model')}` to a "
                f"CLIP-like model, or set `{setting_name.format('alpha')}` to 0 (perplexity only)."
            )
        scores = score(dataset)
        kept = [column for column in dataset.column_names if column != "chosen_similarity"]
        scored = Dataset.from_dict(
            {"chosen_similarity": scores}, Features({"chosen_similarity": [Value("float32")]})
        )
        dataset = concatenate_datasets([dataset.select_columns(kept), scored], axis=1)

    prepared = dataset.map(
        _prepare_row,
        fn_kwargs={"preparer": preparer, "name": name},
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features({**_PREPARED, _REFUSED: Value("string")}),
        num_proc=num_proc,
        new_fingerprint=Hasher.hash(
            (PREPARE_VERSION, dataset._fingerprint, processing_fingerprint(processing_class), preparer.limit)
        ),
        desc=f"Preparing {name} for ASPO",
    )
    reasons = prepared[_REFUSED]
    kept_rows = [index for index, reason in enumerate(reasons) if reason is None]
    _report(name, len(reasons), Counter(reason for reason in reasons if reason is not None))
    prepared = prepared.remove_columns(_REFUSED)
    if preparer.processor is not None:
        prepared = concatenate_datasets([dataset.select_columns(["images"]), prepared], axis=1)
    return prepared if len(kept_rows) == len(reasons) else prepared.select(kept_rows)


def _with_images(dataset: Dataset) -> Dataset:
    """The dataset with a column `images` of encoded files, a list of {bytes, path}; nothing is decoded."""
    if "image" in dataset.column_names and "images" not in dataset.column_names:
        feature = dataset.features["image"]
        if isinstance(feature, ImageFeature):
            dataset = dataset.cast_column("image", ImageFeature(decode=False))
        dataset = dataset.map(
            lambda row: {"images": [_encoded(row["image"])]},
            remove_columns=["image"],
            features=Features(
                {**{k: v for k, v in dataset.features.items() if k != "image"}, "images": [_IMAGE]}
            ),
        )
        return dataset
    if "images" not in dataset.column_names:
        empty = Dataset.from_dict({"images": [[]] * len(dataset)}, Features({"images": [_IMAGE]}))
        return concatenate_datasets([dataset, empty], axis=1)
    feature = dataset.features["images"]
    item = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    if isinstance(item, Value):
        return dataset.map(
            lambda row: {"images": [{"bytes": None, "path": path} for path in row["images"] or []]},
            features=Features({**dataset.features, "images": [_IMAGE]}),
        )
    return dataset.cast_column("images", [ImageFeature(decode=False)]).cast_column("images", [_IMAGE])


def _encoded(image: Any) -> dict[str, Any]:
    return {"bytes": None, "path": image} if isinstance(image, str) else image


def _rows_with_images(dataset: Dataset) -> list[int]:
    lengths = dataset.select_columns(["images"]).with_format("arrow")
    rows: list[int] = []
    for start in range(0, len(dataset), 1000):
        column = lengths[start : start + 1000]["images"]
        counts = (
            column.combine_chunks().value_lengths().to_pylist()
            if hasattr(column, "combine_chunks")
            else column.value_lengths().to_pylist()
        )
        rows += [start + index for index, count in enumerate(counts) if count]
    return rows


def _any_similarity(dataset: Dataset, rows: list[int]) -> bool:
    if "chosen_similarity" not in dataset.column_names:
        return False
    similarities = dataset.select_columns(["chosen_similarity"]).select(rows)
    return any(value is not None for row in similarities for value in row["chosen_similarity"] or [])


def _prepare_row(row: dict[str, Any], index: int, preparer: RowPreparer, name: str) -> dict[str, Any]:
    try:
        return {**preparer(row, row["images"] or []), _REFUSED: None}
    except RefusedRow as refusal:
        return {**dict.fromkeys(_PREPARED), _REFUSED: str(refusal)}
    except (ValueError, OSError) as error:
        raise ValueError(f"row {index} of {name}: {error}") from error


def processing_fingerprint(processing_class: Any) -> str:
    """What prepared rows depend on of a tokenizer or processor. (Its own hash changes with its use.)"""
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    image_processor = getattr(processing_class, "image_processor", None)
    return Hasher.hash(
        (
            type(processing_class).__name__,
            getattr(processing_class, "chat_template", None),
            sorted(tokenizer.get_vocab().items()),
            image_processor.to_json_string() if image_processor is not None else None,
        )
    )


def _report(name: str, total: int, reasons: Counter[str]) -> None:
    refused = sum(reasons.values())
    listed = "; ".join(f"{count}: {reason}" for reason, count in reasons.most_common())
    if refused == total:
        raise ValueError(f"no pair of {name} can be trained: {listed or 'it has no rows'}.")
    if refused:
        logger.warning("%s: %d of %d pairs left out (%s)", name, refused, total, listed)
