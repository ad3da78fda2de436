"""Whole datasets: from any of TRL's preference shapes, or one made by `aspo-data`, to prepared rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.fingerprint import Hasher

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.given_numbers import no_numbers
from aspo_plugin.training.refusals import RefusedRow, StopRun, explained, read_row
from aspo_plugin.training.refused_rows import refused_row

from .rows import LengthLimit, RowPreparer

logger = logging.getLogger(__name__)

# Raised when the result of preparing a row changes, so that nothing prepared by older code is read back.
PREPARE_VERSION = 5

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
_REJECTED = Features({"rejected_sentence_ids": [Value("int32")], "rejected_similarity": [Value("float32")]})
_IMAGE_COLUMNS = ("images", "image")
_OTHER_MEDIA = ("videos", "video", "audios", "audio", "sounds", "sound")
_REFUSED = "refused"
_REFUSAL = {"row": Value("int64")} | {
    name: Value("string") for name in ("dataset", "id", "reason", "detail", "prompt", "chosen")
}
# Fewer are prepared sooner than a process starts.
_ROWS_PER_PROCESS = 500
COLUMNS = tuple(_PREPARED)
REJECTED_COLUMNS = tuple(_REJECTED)
# Pairs whose ends are looked at, and tokens of one that are shown.
_LOOKED_AT, _SHOWN_TOKENS = 100, 8


def is_prepared(dataset: Any) -> bool:
    """Whether `prepare_dataset` made it."""
    return isinstance(dataset, Dataset) and set(COLUMNS) <= set(dataset.column_names)


def prepare_dataset(
    dataset: Dataset,
    processing_class: Any,
    *,
    alpha: float,
    limit: LengthLimit | None = None,
    name: str = "the dataset",
    num_proc: int | None = None,
    score: Callable[[Dataset], Dataset] | None = None,
    setting_name: str = "aspo_{}",
    refused: Callable[[list[dict[str, Any]]], None] | None = None,
    weight_rejected: bool = False,
    given: bool = False,
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
        score: fills the column `chosen_similarity` where a row has images and no similarities.
        setting_name: how the host's user writes a setting.
        refused: takes what is known of each row that was left out, as `rejected.refused_row` has it.
        weight_rejected: the setting; needs similarities of the rejected responses.
        given: whether the weighting is `given`; what is missing is then told in its words.

    Returns:
        Prepared rows (`COLUMNS`), with `images` (list of {bytes, path}) where there is a processor.

    Raises:
        ValueError: columns missing, images without a processor, no similarities though alpha > 0, or no row
            left.
    """
    if is_prepared(dataset):
        if alpha > 0 and "images" in dataset.column_names and (rows := _rows_with_images(dataset)):
            if not _any_similarity(dataset, rows, "similarity"):
                raise _unscored(name, alpha, setting_name, given)
        if weight_rejected and not set(_REJECTED) <= set(dataset.column_names):
            raise ValueError(
                f"{name} was prepared without `{setting_name.format('weight_rejected')}`: prepare it anew."
            )
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
    preparer = RowPreparer(processing_class, limit or LengthLimit(), weight_rejected)
    if preparer.processor is not None:
        _check_image_columns(dataset, name)
    dataset = _with_images(dataset)
    image_rows = _rows_with_images(dataset)
    if image_rows and preparer.processor is None:
        raise ValueError(
            f"{name} has images, but {type(processing_class).__name__} is a tokenizer: choose a "
            "vision-language model, or drop the images column."
        )
    if alpha > 0 and image_rows:
        dataset = dataset if score is None else score(dataset)
        if not _any_similarity(dataset, image_rows):
            raise _unscored(name, alpha, setting_name, given)

    if weight_rejected and image_rows and not _any_similarity(dataset, image_rows, "rejected_similarity"):
        raise _unscored_rejected(name, setting_name, given)

    processes = min(num_proc or 1, len(dataset) // _ROWS_PER_PROCESS)
    prepared = dataset.map(
        _prepare_row,
        fn_kwargs={"preparer": preparer, "name": name},
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features({**_PREPARED, **(_REJECTED if weight_rejected else {}), _REFUSED: _REFUSAL}),
        num_proc=processes if processes > 1 else None,  # `datasets` 5 starts an interpreter for 1
        new_fingerprint=Hasher.hash(
            (
                prepare_version(),
                dataset._fingerprint,
                processing_fingerprint(processing_class),
                preparer.limit,
                weight_rejected,
            )
        ),
        desc=f"Preparing {name} for ASPO",
    )
    marks = prepared.data.column(_REFUSED).to_pylist()
    left_out = [mark for mark in marks if mark is not None]
    if refused is not None and left_out:
        refused(left_out)
    report(name, len(marks), left_out, preparer.limit.name)
    prepared = prepared.remove_columns(_REFUSED)
    if preparer.processor is not None:
        prepared = concatenate_datasets([dataset.select_columns(["images"]), prepared], axis=1)
    if not left_out:
        return prepared
    return prepared.select([index for index, mark in enumerate(marks) if mark is None])


def _with_images(dataset: Dataset) -> Dataset:
    """The dataset with a column `images` of encoded files, a list of {bytes, path}; nothing is decoded."""
    columns = set(dataset.column_names)
    for column in _IMAGE_COLUMNS:
        if column in columns:
            return _mapped_images(dataset, column, _files)
    empty = Dataset.from_dict({"images": [[]] * len(dataset)}, Features({"images": [_IMAGE]}))
    return concatenate_datasets([dataset, empty], axis=1)


def _mapped_images(dataset: Dataset, column: str, convert: Callable[[Any], list[dict[str, Any]]]) -> Dataset:
    others = Features({name: feature for name, feature in dataset.features.items() if name != column})
    features = Features({**others, "images": [_IMAGE]})
    if dataset.data.schema.field(column).type == features.arrow_schema.field("images").type:
        # Only the description changes: casting would copy all image bytes, and decode nothing either.
        info = dataset.info.copy()
        info.features = Features({name: features[name] for name in dataset.column_names})
        fingerprint = Hasher.hash((dataset._fingerprint, "undecoded"))
        table = dataset.data.cast(info.features.arrow_schema)
        return Dataset(table, info, dataset.split, dataset._indices, fingerprint)
    raw = dataset.with_format("arrow")

    def encoded(table: Any) -> dict[str, Any]:
        return {"images": [convert(value) for value in table[column].to_pylist()]}

    images = raw.map(
        encoded, batched=True, remove_columns=dataset.column_names, features=Features({"images": [_IMAGE]})
    )
    return concatenate_datasets([dataset.select_columns(list(others)), images.with_format(None)], axis=1)


def _check_image_columns(dataset: Dataset, name: str) -> None:
    others = [c for c in dataset.column_names if any(word in c.lower() for word in ("image", "img", "video"))]
    if others and not set(others) & set(_IMAGE_COLUMNS):
        raise ValueError(
            f"{name} has a column {', '.join(others)}, but images are read from `images` or `image`, so the "
            "pairs would be trained without them. Rename the column, or drop it if the pairs have no images."
        )
    unseen = [c for c in dataset.column_names if c.lower() in _OTHER_MEDIA and _holds_any(dataset, c)]
    if unseen:
        raise ValueError(
            f"{name} has {', '.join(unseen)}, which TRL's preference training does not take: these pairs "
            "would be trained on their texts alone. Train them in LLaMA-Factory with `stage: aspo`, or drop "
            "the column."
        )


def _holds_any(dataset: Dataset, column: str) -> bool:
    """Whether a row has something there; of the whole table, whatever rows were selected of it."""
    values = dataset.data.column(column)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return bool(pc.any(pc.greater(pc.list_value_length(values), 0)).as_py())
    return bool(values.null_count < len(values))


def _files(value: Any) -> list[dict[str, Any]]:
    """The images of a row, of which there may be one that stands in no list."""
    if value is None:
        return []
    return [_file(image) for image in (value if isinstance(value, list) else [value])]


def _file(image: Any) -> dict[str, Any]:
    return {"bytes": None, "path": image} if isinstance(image, str) else image


def _rows_with_images(dataset: Dataset) -> list[int]:
    column = dataset.select_columns(["images"]).with_format("arrow")
    counts = (
        count
        for table in column.iter(1000)
        for count in table["images"].combine_chunks().value_lengths().to_pylist()
    )
    return [index for index, count in enumerate(counts) if count]


def mixes_images(dataset: Dataset) -> bool:
    """Whether a prepared set has rows with images and rows without."""
    return "images" in dataset.column_names and 0 < len(_rows_with_images(dataset)) < len(dataset)


def _any_similarity(dataset: Dataset, rows: list[int], column: str = "chosen_similarity") -> bool:
    if column not in dataset.column_names:
        return False
    similarities = dataset.select_columns([column]).select(rows)
    return any(value is not None and value == value for row in similarities for value in row[column] or [])


def refuse_plain_dpo(dataset: Any, settings: AspoSettings, setting_name: str) -> None:
    """Raise `ValueError` for a prepared training set without one similarity where alpha is 1: all weights
    would be 0."""
    if settings.alpha < 1 or not isinstance(dataset, Dataset):
        return
    rows, given = list(range(len(dataset))), settings.weighting == "given"
    if not _any_similarity(dataset, rows, "similarity"):
        if given:
            raise no_numbers("the training set", setting_name=setting_name)
        setting = setting_name.format("alpha")
        raise ValueError(
            f"`{setting}` is 1, which weights sentences by their similarity to an image alone, and no "
            "training row has one (a set of text): this would train plain DPO. Set it to 0, which weights by "
            "perplexity, or train with DPO itself."
        )
    if given and settings.weight_rejected and not _any_similarity(dataset, rows, "rejected_similarity"):
        raise no_numbers("the training set", "rejected", setting_name)


def _unscored(name: str, alpha: float, setting_name: str, given: bool) -> ValueError:
    if given:
        return no_numbers(name, setting_name=setting_name)
    return ValueError(
        f"{name} has images but no similarities, and `{setting_name.format('alpha')}` is {alpha}. "
        f"Score it with `aspo-data score`, or set `{setting_name.format('similarity_model')}` to a "
        f"CLIP-like model, or set `{setting_name.format('alpha')}` to 0 (perplexity only)."
    )


def _unscored_rejected(name: str, setting_name: str, given: bool) -> ValueError:
    if given:
        return no_numbers(name, "rejected", setting_name)
    return ValueError(
        f"{name} has images but no similarities of its rejected responses, and "
        f"`{setting_name.format('weight_rejected')}` weights them: score it with "
        "`aspo-data score --rejected`, or leave the setting out. "
        f"(`{setting_name.format('similarity_model')}` scores chosen responses only.)"
    )


def _prepare_row(row: dict[str, Any], index: int, preparer: RowPreparer, name: str) -> dict[str, Any]:
    try:
        made = read_row(lambda: preparer(row, row["images"] or []))
    except StopRun as error:
        raise StopRun(f"row {index} of {name}: {error}") from error
    if not isinstance(made, RefusedRow):
        return {**made, _REFUSED: None}
    nothing = dict.fromkeys([*_PREPARED, *(_REJECTED if preparer.weight_rejected else {})])
    texts = (row.get("prompt"), row["chosen"])
    return {**nothing, _REFUSED: refused_row(made, name, index, row.get("id"), *texts)}


def processing_fingerprint(processing_class: Any) -> str:
    """What prepared rows depend on of a tokenizer or processor. (Its own hash changes with its use.)"""
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    image_processor = getattr(processing_class, "image_processor", None)
    return str(
        Hasher.hash(
            (
                type(processing_class).__name__,
                getattr(processing_class, "chat_template", None) or tokenizer.chat_template,
                sorted(tokenizer.get_vocab().items()),
                tokenizer.special_tokens_map,
                _rules(tokenizer),
                # What a processor's own settings make of an image's tokens.
                {k: v for k, v in vars(processing_class).items() if isinstance(v, str | int | float)},
                image_processor.to_json_string() if image_processor is not None else None,
            )
        )
    )


def _rules(tokenizer: Any) -> Any:
    """How a fast tokenizer cuts text. (Padding and truncation are in there too, and change with its use.)"""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    return {
        name: rules.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "post_processor")
    }


def prepare_version() -> tuple[int, str]:
    """Of the code that prepared rows depend on, the sentence splitter's included."""
    from dataset_tools.sentences import SPLITTER_VERSION

    return PREPARE_VERSION, SPLITTER_VERSION


def end_of_turn_missing(dataset: Dataset, processing_class: Any) -> str:
    """The end of a prepared response, where most of the first responses close without an end-of-turn token,
    else "". White space behind that token is the template's, and a response cut by a length limit is rare.
    """
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(token for token, value in added.items() if value.special)}
    rows = dataset.select_columns(["chosen_ids", "rejected_ids"])[:_LOOKED_AT]
    responses = [ids for column in rows.values() for ids in column]
    still = [ids for ids in responses if _last_of_text(tokenizer, ids) not in special]
    if 2 * len(still) <= len(responses):
        return ""
    return str(tokenizer.decode(still[0][-_SHOWN_TOKENS:]))


def _last_of_text(tokenizer: Any, ids: list[int]) -> int | None:
    return next((token for token in reversed(ids) if tokenizer.decode([token]).strip()), None)


def report(name: str, total: int, refused: Sequence[Mapping[str, Any]], limit: str) -> None:
    """Tell how many of a set's rows were left out and why. Raises `ValueError` where none is left."""
    listed = explained(refused, limit)
    if len(refused) == total:
        raise ValueError(f"no pair of {name} can be trained: {listed or 'it has no rows'}.")
    if refused:
        logger.warning("%s: %d of %d pairs left out (%s)", name, len(refused), total, listed)
