"""The two data steps of a `stage: aspo` run, in place of the host's: align a dataset, then tokenize it.

They differ from the host's in three ways: sentences ride along, images stay as stored, and the column types
are given instead of guessed from the first 1000 rows (a set that begins with text-only rows would fail).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import get_dataset_list

from aspo_plugin import __version__
from aspo_plugin.config import AspoSettings
from aspo_plugin.training.refusals import RefusedRow, dataset_faults, explained, message, read_row
from aspo_plugin.training.refused_rows import RefusedRows, keep, kept, kept_scorers, refused_line
from dataset_tools.sentences import SPLITTER_VERSION

from .columns import check_columns
from .contract import FORMATTING
from .converter import undecoded
from .encode import SentencePairProcessor, logger
from .similarity import attach_similarities, check_similarities

LIMIT = "cutoff_len"  # what the host calls the limit of tokens
NO_IMAGE = {"bytes": None, "path": None}  # refuses its row
UNREAD: dict[str, Any] = {
    "_prompt": [],
    "_response": [],
    "_system": "",
    "_tools": "",
    "_images": None,
    "_videos": None,
    "_audios": None,
    "_chosen_sentences": [],
    "_chosen_similarity": None,
    "_rejected_sentences": None,
    "_rejected_similarity": None,
    "_untrained_prefix": None,
}


@dataclass
class SentenceConverter:
    """A converter of the host, with images as `{"bytes", "path"}` and sentences for every chosen response.

    `dataset` is the name its user gave it; `numbers` are the rows' places in it, where they are not 0, 1, ...
    """

    inner: Any
    media_dir: str
    dataset: str
    numbers: np.ndarray | None = None
    version: str = f"{__version__}/5, {SPLITTER_VERSION}"

    def __call__(self, example: dict[str, Any], index: int | None = None) -> dict[str, Any]:
        row = read_row(self._read, example)
        if isinstance(row, RefusedRow):
            row = {**UNREAD, "_fault": row.detail}
        return {"_fault": None, **row, "_origin": self._origin(example, index)}

    def _read(self, example: dict[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = self.inner(example)
        row["_images"] = [self._stored(image) for image in row["_images"] or []] or None
        for name in (
            "_chosen_similarity",
            "_rejected_similarity",
            "_rejected_sentences",
            "_untrained_prefix",
        ):
            row.setdefault(name, None)
        texts = [turn["content"] for turn in (*row["_prompt"], *row["_response"])]
        for text in (*texts, row["_system"], row["_tools"]):
            if not isinstance(text, str | None):
                raise RefusedRow("unread", f"{type(text).__name__} where a text is needed")
        if not row.get("_chosen_sentences"):
            from dataset_tools.sentences import split_sentences

            text = row["_response"][0]["content"] if row["_response"] else None
            spans = split_sentences(text or "", row["_untrained_prefix"] or 0)
            row["_chosen_sentences"] = [list(span) for span in spans]
        return row

    def _origin(self, example: dict[str, Any], index: int | None) -> dict[str, Any]:
        identity = example.get("id")
        return {
            "dataset": self.dataset,
            "row": index if index is None or self.numbers is None else int(self.numbers[index]),
            "id": str(identity) if isinstance(identity, str | int) else None,
        }

    def _stored(self, image: Any) -> dict[str, Any]:
        if isinstance(image, bytes):
            return {"bytes": image, "path": None}
        stored = {"bytes": None, "path": image} if isinstance(image, str) else dict(image or NO_IMAGE)
        if stored["bytes"] is None and stored["path"] is not None:
            inside = Path(self.media_dir) / stored["path"]
            stored["path"] = str(inside) if inside.is_file() else stored["path"]
        return stored


def _aligned_features(dataset: Any, attribute: Any) -> Any:
    """Types of an aligned row; None where the dataset's own are unknown (streaming from the Hub)."""
    from datasets import Features, Value

    if not dataset.features:
        return None
    text = Value("string")
    turns = [{"role": text, "content": text}]

    def listed(kind: str) -> Any:
        column = kind if attribute.formatting == FORMATTING else getattr(attribute, kind)
        feature = dataset.features.get(column) if column else None
        if feature is None:
            return Value("null")
        return feature if isinstance(feature, list) or hasattr(feature, "feature") else [feature]

    return Features(
        {
            "_prompt": turns,
            "_response": turns,
            "_system": text,
            "_tools": text,
            "_images": [{"bytes": Value("binary"), "path": text}],
            "_videos": listed("videos"),
            "_audios": listed("audios"),
            **{f"_{side}_sentences": [[Value("int32")]] for side in ("chosen", "rejected")},
            **{f"_{side}_similarity": [Value("float32")] for side in ("chosen", "rejected")},
            "_untrained_prefix": Value("int32"),
            "_origin": _origin_features(),
            "_fault": text,
        }
    )


def _origin_features() -> dict[str, Any]:
    from datasets import Value

    return {"dataset": Value("string"), "row": Value("int64"), "id": Value("string")}


def _encoded_features(dataset: Any, weight_rejected: bool) -> Any:
    from datasets import Features, Value

    ids, mask = [Value("int32")], [Value("int8")]
    weighted = ("chosen", "rejected") if weight_rejected else ("chosen",)
    return Features(
        {
            **{f"{side}_input_ids": ids for side in ("chosen", "rejected")},
            **{f"{side}_attention_mask": mask for side in ("chosen", "rejected")},
            **{f"{side}_labels": ids for side in ("chosen", "rejected")},
            "images": dataset.features["_images"],
            "videos": dataset.features["_videos"],
            "audios": dataset.features["_audios"],
            **{f"{side}_sentence_ids": ids for side in weighted},
            **{f"{side}_similarity": [Value("float32")] for side in weighted},
            "refused": {
                **_origin_features(),
                **{name: Value("string") for name in ("reason", "detail", "prompt", "chosen")},
            },
        }
    )


def _map_options(data_args: Any, training_args: Any, what: str) -> dict[str, Any]:
    if data_args.streaming:
        return {}
    return {
        "num_proc": data_args.preprocessing_num_workers,
        "load_from_cache_file": not data_args.overwrite_cache or training_args.local_process_index != 0,
        "desc": what,
    }


class SentenceData:
    """Stands in for the host's `align_dataset` and `_get_preprocessed_dataset` during one run, and around its
    `_load_single_dataset`.

    `counts` holds, per split, how many rows were read and how many refused for which reason; `refused_rows`
    takes the rows themselves.
    """

    def __init__(
        self, settings: AspoSettings, refused_rows: RefusedRows, cache_dir: str | None = None
    ) -> None:
        self.settings = settings
        self.refused_rows = refused_rows
        self.cache_dir = cache_dir
        self.counts: dict[str, dict[str, int]] = {}

    def reading(self, load: Callable[..., Any]) -> Callable[..., Any]:
        """The host's `_load_single_dataset`, whose faults are one message with the name of the dataset."""

        def loaded(dataset_attr: Any, model_args: Any, data_args: Any, training_args: Any) -> Any:
            with dataset_faults(known_as(dataset_attr, data_args)):
                return load(dataset_attr, model_args, data_args, training_args)

        return loaded

    def align(self, dataset: Any, dataset_attr: Any, data_args: Any, training_args: Any) -> Any:
        """Rows of one dataset in the host's common form, with sentences and similarities."""
        numbers = _numbers(dataset)
        dataset = undecoded(dataset)
        inner = get_dataset_converter(dataset_attr.formatting, dataset_attr, data_args)
        options = _map_options(data_args, training_args, "Splitting sentences")
        name = known_as(dataset_attr, data_args)
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"dataset {name} has no rows.")
        check_columns(first, dataset_attr, name)
        columns = list(first)
        if not data_args.streaming:
            options["features"] = _aligned_features(dataset, dataset_attr)
        converter = SentenceConverter(inner, str(data_args.media_dir), name, numbers)
        # Several shards of a stream are counted each for itself.
        counted = not data_args.streaming or dataset.n_shards == 1
        dataset = dataset.map(converter, with_indices=counted, remove_columns=columns, **options)
        if self.settings.alpha > 0:
            if self.settings.similarity_model is not None:
                dataset = attach_similarities(
                    dataset, self.settings.similarity_model, self.cache_dir, training_args.device
                )
            check_similarities(dataset, name, self.settings)
        return dataset

    def preprocess(
        self,
        dataset: Any,
        data_args: Any,
        training_args: Any,
        stage: str,
        template: Any,
        tokenizer: Any,
        processor: Any = None,
        is_eval: bool = False,
    ) -> Any:
        """Token ids, sentences and similarities of the rows that can be trained on."""
        if dataset is None:
            return None
        encoder = SentencePairProcessor(
            template=template,
            tokenizer=tokenizer,
            processor=processor,
            data_args=data_args,
            weight_rejected=self.settings.weight_rejected,
        )
        what = "evaluation" if is_eval else "training"
        columns = list(next(iter(dataset)).keys())
        options = _map_options(data_args, training_args, "Tokenizing pairs with sentences")
        if not data_args.streaming:
            options["features"] = _encoded_features(dataset, self.settings.weight_rejected)
        dataset = dataset.map(
            encoder.preprocess_dataset,
            batched=True,
            batch_size=data_args.preprocessing_batch_size,
            remove_columns=columns,
            **options,
        )
        if data_args.streaming:
            dataset = dataset.filter(StreamingFilter(what, self.refused_rows))
        else:
            dataset = self._drop(dataset, what, write=training_args.process_index == 0)
        dataset = dataset.remove_columns("refused")
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"no {what} row is left to train on: see {self.refused_rows.path}.")
        if training_args.should_log:
            print(f"{what} example:")
            encoder.print_data_example(first)
        return dataset

    def check_scorers(self, tokenized_path: str, scorers: list[str]) -> None:
        """Raise `ValueError` where tokenized data was read that one of `scorers` did not score."""
        if self.counts or self.settings.alpha == 0:
            return
        before = kept_scorers(tokenized_path)
        others = [name for name in scorers if name not in (before or [])]
        if before is None and self.settings.similarity_model is None:
            return  # of an earlier version
        cosines = [name for name in before or [] if name not in scorers]
        if cosines and self.settings.weighting == "given":
            raise ValueError(
                f"`tokenized_path: {tokenized_path}` holds similarities by {', '.join(cosines)}, which "
                "`aspo_weighting: given` would take for weights, and cosines are none: set another "
                "`tokenized_path`, and the run writes one with the dataset's own numbers."
            )
        if others:
            by = "an unknown model" if before is None else ", ".join(before) or "no model"
            raise ValueError(
                f"`tokenized_path: {tokenized_path}` holds data scored by {by}, and {', '.join(others)} "
                "would not score it: what is tokenized is read as it is. Set another `tokenized_path`, and "
                "the run writes one, or go back to the scorer and the data it was made with."
            )

    def remember(self, tokenized_path: str, scorers: list[str]) -> None:
        """Keep with data that was just tokenized what was refused and what scored it, or report what was
        refused where the data was read."""
        if self.counts:
            keep(tokenized_path, self.counts, self.refused_rows.records(), scorers)
            return
        self.counts, records = kept(tokenized_path)
        self.refused_rows.add(records)
        for what, counted in self.counts.items():
            refused = {reason: count for reason, count in counted.items() if reason != "rows"}
            report(refused, counted["rows"], what, self.refused_rows.path)

    def _drop(self, dataset: Any, what: str, write: bool) -> Any:
        rows = dataset.data.column("refused").to_pylist()
        refused = Counter(row["reason"] for row in rows if row is not None)
        counted = self.counts.setdefault(what, {"rows": 0})
        counted["rows"] += len(rows)
        for reason, count in refused.items():
            counted[reason] = counted.get(reason, 0) + count
        if write:
            self.refused_rows.add(refused_line(row, what, LIMIT) for row in rows if row is not None)
        report(refused, len(rows), what, self.refused_rows.path)
        kept = [i for i, row in enumerate(rows) if row is None]
        if not kept:
            raise ValueError(
                f"no {what} row is left to train on: {explained(rows, LIMIT)}. Each row is listed in "
                f"{self.refused_rows.path}."
            )
        return dataset.select(kept) if refused else dataset


def known_as(dataset_attr: Any, data_args: Any) -> str:
    """The name under which the recipe asks for a dataset."""
    names = [*(data_args.dataset or []), *(data_args.eval_dataset or [])]
    attributes = get_dataset_list(names, data_args.dataset_dir)
    same = (name for name, attribute in zip(names, attributes, strict=True) if attribute == dataset_attr)
    return next(same, str(dataset_attr))


def _numbers(dataset: Any) -> np.ndarray | None:
    """Where the host drew or repeated rows (`num_samples`): their places in the dataset as it was read."""
    indices = getattr(dataset, "_indices", None)
    return None if indices is None else indices.column(0).to_numpy()


def report(refused: Mapping[str, int], total: int, what: str, path: Path) -> None:
    """Tell how many rows of a set were refused, why, and where they are listed."""
    for reason, count in sorted(refused.items(), key=lambda item: -item[1]):
        logger.warning_rank0(f"ASPO refused {count} of {total} {what} rows: {message(reason, LIMIT)}.")
    if refused:
        logger.warning_rank0(f"Each refused row is listed, with its reason, in {path}.")


class StreamingFilter:
    """Keeps rows that were not refused; lists the others, and counts them in the log, as they are read."""

    def __init__(self, what: str, refused_rows: RefusedRows) -> None:
        self.what = what
        self.refused_rows = refused_rows
        self.refused: Counter[str] = Counter()

    def __call__(self, row: dict[str, Any]) -> bool:
        refused = row["refused"]
        if refused is None:
            return True
        self.refused_rows.add([refused_line(refused, self.what, LIMIT)])
        reason = refused["reason"]
        self.refused[reason] += 1
        count = self.refused[reason]
        if count & (count - 1) == 0:  # 1, 2, 4, 8, ...: enough to notice, without a line for every row
            logger.warning_rank0(
                f"ASPO refused {count} {self.what} rows so far: {message(reason, LIMIT)}. "
                f"See {self.refused_rows.path}."
            )
        return False
