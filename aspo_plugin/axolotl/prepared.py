"""The prepared rows of a config: made once by one process, read by the others and by later runs.

Axolotl's own functions read, merge, split, keep and lock the datasets; `contract.PLACES` names them. This can
go when its path for preference data takes sentences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aspo_plugin.training.refusals import dataset_faults
from aspo_plugin.training.refused_rows import keep, kept, refused_line

from . import contract
from .arguments import DATASET_KEYS, NAME, settings_of
from .config import is_aspo
from .datasets import limit_of, listed, name_of, prepared_entry
from .patches import fit_to_cpu
from .processing import processing_class
from .strategies import transform


def load_datasets(cfg: Any) -> Any:
    """The datasets for `train` and `preprocess`, as a plugin's hook gives them; None for another `rl`."""
    from axolotl.common.datasets import TrainDatasetMeta

    if not is_aspo(cfg):
        return None
    train, evaluation = prepared_splits(cfg)
    steps = math.ceil(len(train) * cfg.num_epochs / cfg.batch_size)
    return TrainDatasetMeta(train_dataset=train, eval_dataset=evaluation, total_num_steps=steps)


def prepared_splits(cfg: Any) -> tuple[Any, Any]:
    """(training, evaluation or None): prepared once by one process, read by the others and by later runs."""
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data.lock import FileLockLoader
    from axolotl.utils.data.shared import create_train_validation_split

    from aspo_plugin.trl.datasets import refuse_plain_dpo

    contract.check_host(contract.PLACES)
    fit_to_cpu(cfg)
    processing = processing_class(cfg, load_tokenizer(cfg))

    def build() -> tuple[Any, Any]:
        with listed(cfg) as refused:
            train = _split(cfg, processing, "datasets", refused)
            test = _split(cfg, processing, "test_datasets", refused) if cfg.test_datasets else None
        refuse_plain_dpo(train, settings_of(cfg), NAME)
        if cfg.dataset_exact_deduplication:
            train, test = _without_repeats(train, test)
        if test is not None:
            return train, test
        if cfg.val_set_size:
            found: tuple[Any, Any] = create_train_validation_split(train, cfg, cfg.val_set_size)
            return found
        return train, None

    loader = FileLockLoader(cfg)
    try:
        found: tuple[Any, Any] = loader.load(build)
        return found
    finally:
        loader.cleanup()


def _without_repeats(train: Any, test: Any) -> tuple[Any, Any]:
    """Axolotl's own deduplication, which from 0.21 skips sets with a column of images. Ours hold encoded
    bytes and paths, which are compared like any text."""
    from axolotl.utils.data.utils import deduplicate_and_log_datasets

    def renamed(dataset: Any, old: str, new: str) -> Any:
        return dataset.rename_column(old, new) if dataset and old in dataset.column_names else dataset

    parts = deduplicate_and_log_datasets(
        dataset=renamed(train, "images", "files"), other_dataset=renamed(test, "images", "files")
    )
    return renamed(parts[0], "files", "images"), renamed(parts[1], "files", "images")


def _split(cfg: Any, processing: Any, key: str, refused: list[dict[str, Any]]) -> Any:
    """The merged and prepared rows of `datasets` or `test_datasets`, kept in `dataset_prepared_path`.

    The rows that were left out are added to `refused`, whenever that was.
    """
    from axolotl.utils.data.shared import (
        get_prepared_dataset_path,
        load_preprocessed_dataset,
        merge_datasets,
        save_preprocessed_dataset,
    )

    from aspo_plugin.trl.similarity import dataset_scorer

    name = _prepared_name(cfg, processing, key)
    dataset = load_preprocessed_dataset(cfg, name)
    if dataset is None:
        split, before = "training" if key == "datasets" else "evaluation", len(refused)
        parts = [
            prepared_entry(
                cfg,
                entry,
                index,
                processing,
                load=_read(cfg),
                transform=transform(cfg, key),
                score=dataset_scorer,
                refused=lambda rows: refused.extend(
                    refused_line(row, split, limit_of(cfg).name) for row in rows
                ),
            )
            for index, entry in enumerate(cfg[key])
        ]
        dataset = merge_datasets(parts, cfg)
        save_preprocessed_dataset(cfg, dataset, name, "train" if key == "datasets" else "test")
        keep(get_prepared_dataset_path(cfg, name), {}, refused[before:])
    else:
        refused.extend(kept(get_prepared_dataset_path(cfg, name))[1])
    return dataset


def _prepared_name(cfg: Any, processing: Any, key: str) -> str:
    """Folder of the prepared rows: changes with all they depend on, also with the files of a local set and
    of a local scorer."""
    from axolotl.utils.data.shared import generate_dataset_hash_from_config
    from datasets.fingerprint import Hasher

    from aspo_plugin.trl.datasets import prepare_version, processing_fingerprint

    settings = settings_of(cfg)
    roots = [path for entry in cfg[key] for path in (entry["path"], *_listed_files(entry.get("data_files")))]
    roots += [settings.similarity_model] if settings.similarity_model else []  # which may be a folder, too
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for root in map(Path, roots)
        if root.exists()
        for path in sorted([root, *root.rglob("*")])
        if path.is_file()
    ]
    return str(
        Hasher.hash(
            (
                generate_dataset_hash_from_config(cfg, cfg[key], str(cfg.tokenizer_config)),
                key,
                prepare_version(),
                processing_fingerprint(processing),
                limit_of(cfg),
                settings.alpha > 0,
                settings.similarity_model,
                settings.weight_rejected,
                dict(cfg.chat_template_kwargs or {}),
                (cfg.seed, cfg.shuffle_merged_datasets, cfg.shuffle_before_merging_datasets),
                files,
            )
        )
    )


def _listed_files(value: Any) -> list[str]:
    """The paths in `data_files`, which may be one, a list, or either by split."""
    if isinstance(value, Mapping):
        return [path for part in value.values() for path in _listed_files(part)]
    return [value] if isinstance(value, str) else list(value or [])


def _read(cfg: Any) -> Callable[[Mapping[str, Any]], Any]:
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault

    def read(entry: Mapping[str, Any]) -> Any:
        known = DictDefault({key: entry[key] for key in DATASET_KEYS if entry.get(key) is not None})
        with dataset_faults(name_of(entry)):
            return load_dataset_with_config(known, cfg.hf_use_auth_token, streaming=False)

    return read
