"""All contact with Axolotl's private parts. Checked with Axolotl 0.19.0; `check_host` finds what has moved.

`register`: `rl: aspo` becomes `rl: dpo` with our `trainer_cls`.
    Relies on: `rl` is a closed enum, and `HFRLTrainerBuilder._get_trainer_cls` reads `trainer_cls`.
    Can go when: a plugin may add a kind of `rl`.
`_serve_evaluate`: replaces `axolotl.common.datasets.prepare_preference_datasets` for ASPO's configs.
    Relies on: `axolotl evaluate` gets its datasets there and asks no plugin's `load_datasets`.
    Can go when: it asks plugins, as `train` and `preprocess` do.
`_skip_peer_probe`, `_fit_to_cpu`: several processes on a machine without an accelerator.
    Relies on: `utils.trainer.check_cuda_p2p_ib_support` asks CUDA for peers and fails without a driver;
    `device_map` is `{"": rank}`, which is no device of a CPU.
    Can go when: Axolotl trains with several processes on CPU.
`hold_no_reference`: with a reference cache, full fine-tuning loads no second model.
    Relies on: `axolotl.train.setup_reference_model` loads it and hands it to the trainer.
    Can go when: Axolotl asks the trainer or a plugin whether it needs one.
`merge_method: legacy` for `axolotl merge-lora`, where the config names none.
    Relies on: `merge_lora` is in the raw config that the command loads.
    Can go when: `cli.utils.lora_merge` composes the renamings of a LLaVA checkpoint.
`save_adapter_alone`: the base model under an adapter is not written to the output folder.
    Relies on: `axolotl.train.save_trained_model` saves the adapter, then the model below it, whose layers
    then have names that nothing can load.
    Can go when: Axolotl saves adapters of preference runs once.
`prepared_splits`: Axolotl's own functions read, merge, split, keep and lock the datasets.
    Relies on: their signatures.
    Can go when: its path for preference data takes messages and images.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aspo_plugin.training.rejected import keep, kept

from . import contract
from .arguments import DATASET_KEYS, refuse
from .contract import check_host

logger = logging.getLogger(__name__)

TRAINER = "aspo_plugin.axolotl.trainer.AxolotlAspoTrainer"
PLUGIN = "aspo_plugin.axolotl.AspoPlugin"
# Arguments of every trainer that Axolotl reads for supervised fine-tuning and leaves out for preferences.
_PASSED_ON = (
    "auto_find_batch_size",
    "dataloader_drop_last",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_timeout",
    "greater_is_better",
    "load_best_model_at_end",
    "metric_for_best_model",
)
_EVALUATES = "aspo_evaluates"


def is_aspo(cfg: Any) -> bool:
    """Whether a registered config trains ASPO."""
    return cfg.get("trainer_cls") == TRAINER


def evaluates(cfg: Any) -> bool:
    """Whether `axolotl evaluate` runs, and not `axolotl train`."""
    return bool(cfg.get(_EVALUATES))


def register(cfg: Any) -> None:
    """Check a raw config and turn `rl: aspo` into what Axolotl can run. A second call changes nothing.

    Raises `ValueError` for an option that cannot work, or where the config lists the plugin but does not say
    `rl: aspo`. (Axolotl also calls the plugins of earlier configs of the same process.)
    """
    if not any(name.startswith("aspo_plugin.") for name in cfg.get("plugins") or []):
        return
    if is_aspo(cfg) and cfg.get("rl") == "dpo":  # Ray registers the validated config again in each worker
        return
    if cfg.get("rl") != "aspo":
        raise ValueError(
            f"plugins lists {PLUGIN}, but rl is {cfg.get('rl')}: nothing of ASPO would happen. "
            "Set rl: aspo, or remove the plugin (and the block aspo, if there is one)."
        )
    _refuse_flags(sys.argv[1:])
    _check_keys(cfg)
    refuse(cfg)
    check_host()
    cfg["rl"] = "dpo"
    cfg["trainer_cls"] = TRAINER
    cfg["aspo"] = dict(cfg.get("aspo") or {})
    if cfg.get("seed") is None:
        cfg["seed"] = 42  # without one, every process shuffles and splits the data in its own way
    if cfg.get("merge_lora") and not cfg.get("merge_method"):
        # The default, memory_efficient, finds no layer of a LLaVA and writes the base model unchanged.
        cfg["merge_method"] = "legacy"
    _serve_evaluate()
    _skip_peer_probe()


def _refuse_flags(arguments: list[str]) -> None:
    flags = [argument for argument in arguments if argument.startswith("--aspo")]
    if flags:
        raise ValueError(
            f"{flags[0]} on the command line would change nothing: Axolotl takes no keys of plugins there. "
            "Write it into the block aspo of the config."
        )


def _check_keys(cfg: Any) -> None:
    """Axolotl drops keys that it does not know. One that is nearly a key is a mistake; others are named."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.schemas.config import AxolotlInputConfig

    schemas = [AxolotlInputConfig]
    for place in PluginManager.get_instance().get_input_args():
        module, _, name = place.rpartition(".")
        schemas.append(getattr(importlib.import_module(module), name))
    known = {
        key
        for schema in schemas
        for name, item in schema.model_fields.items()
        for key in (name, item.alias, item.validation_alias)
        if isinstance(key, str)
    }
    unknown = [key for key in cfg if key not in known and not key.startswith(("_", "x-", "aspo"))]
    for key in unknown:
        if near := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
            raise ValueError(f"{key} is no key of Axolotl, which would ignore it: did you mean {near[0]}?")
    if unknown:
        logger.warning("%s: no key of Axolotl, so it changes nothing", ", ".join(sorted(unknown)))


def current_config() -> Any:
    """The validated config of this process."""
    from axolotl.integrations.base import PluginManager

    return PluginManager.get_instance().cfg


def training_args(cfg: Any) -> dict[str, Any] | None:
    """What the training arguments need beyond the config."""
    if not is_aspo(cfg):
        return None
    # ASPO computes log-probs only, so a mixture-of-experts model gets no load-balancing loss.
    args: dict[str, Any] = {"router_aux_loss_coef": 0.0}
    args |= {key: cfg[key] for key in _PASSED_ON if cfg[key] is not None}
    if cfg.early_stopping_patience:
        args.setdefault("load_best_model_at_end", True)
        args.setdefault("metric_for_best_model", "loss")
    if cfg.device == "cpu":
        args["use_cpu"] = True  # else several processes would each train alone
    return args


def callbacks(cfg: Any) -> list[Any]:
    """Those that Axolotl adds to its trainer of supervised fine-tuning only."""
    from transformers import EarlyStoppingCallback

    wanted = is_aspo(cfg) and cfg.early_stopping_patience
    return [EarlyStoppingCallback(cfg.early_stopping_patience)] if wanted else []


def processing_class(cfg: Any, tokenizer: Any) -> Any:
    """The processor of a vision-language model, with the chat template of the config; else the tokenizer."""
    from axolotl.loaders import load_processor

    if not cfg.is_multimodal:
        return tokenizer
    processor = load_processor(cfg, tokenizer)
    if cfg.chat_template:
        processor.chat_template = tokenizer.chat_template
    return processor


def load_datasets(cfg: Any) -> Any:
    """The datasets for `train` and `preprocess`, as a plugin's hook gives them; None for another `rl`."""
    from axolotl.common.datasets import TrainDatasetMeta

    if not is_aspo(cfg):
        return None
    train, evaluation = prepared_splits(cfg)
    steps = math.ceil(len(train) * cfg.num_epochs / cfg.batch_size)
    return TrainDatasetMeta(train_dataset=train, eval_dataset=evaluation, total_num_steps=steps)


def _serve_evaluate() -> None:
    from axolotl.common import datasets as module

    original = module.prepare_preference_datasets
    if getattr(original, "serves_aspo", False):
        return

    @functools.wraps(original)
    def prepare(cfg: Any, tokenizer: Any) -> Any:
        if not is_aspo(cfg):
            return original(cfg, tokenizer)
        cfg[_EVALUATES] = True
        return prepared_splits(cfg)

    prepare.serves_aspo = True  # type: ignore[attr-defined]
    module.prepare_preference_datasets = prepare


def hold_no_reference(cfg: Any) -> None:
    """With a reference cache the policy is its own reference before its first step: load no second model."""
    from axolotl import train as module

    original = module.setup_reference_model
    if not is_aspo(cfg) or getattr(original, "asks_aspo", False):
        return

    @functools.wraps(original)
    def setup(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        cached = is_aspo(cfg) and (cfg.aspo or {}).get("reference_cache")
        return None if cached else original(cfg, *args, **kwargs)

    setup.asks_aspo = True  # type: ignore[attr-defined]
    module.setup_reference_model = setup


def _skip_peer_probe() -> None:
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available():
        from axolotl.utils import trainer as module

        module.check_cuda_p2p_ib_support = lambda: True


def _fit_to_cpu(cfg: Any) -> None:
    if cfg.device == "cpu" and cfg.world_size != 1:
        cfg.device_map = None


def prepared_splits(cfg: Any) -> tuple[Any, Any]:
    """(training, evaluation or None): prepared once by one process, read by the others and by later runs."""
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.data.lock import FileLockLoader
    from axolotl.utils.data.shared import create_train_validation_split
    from axolotl.utils.data.utils import deduplicate_and_log_datasets

    from .datasets import listed

    check_host(contract.PLACES)
    _fit_to_cpu(cfg)
    processing = processing_class(cfg, load_tokenizer(cfg))

    def build() -> tuple[Any, Any]:
        with listed(cfg) as refused:
            train = _split(cfg, processing, "datasets", refused)
            test = _split(cfg, processing, "test_datasets", refused) if cfg.test_datasets else None
        if cfg.dataset_exact_deduplication:
            train, test = deduplicate_and_log_datasets(dataset=train, other_dataset=test)
        if test is not None:
            return train, test
        if cfg.val_set_size:
            return create_train_validation_split(train, cfg, cfg.val_set_size)
        return train, None

    loader = FileLockLoader(cfg)
    try:
        return loader.load(build)
    finally:
        loader.cleanup()


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

    from .datasets import prepared_entry

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
                transform=_transform(cfg, key),
                score=_score(cfg),
                refused=lambda rows: refused.extend({"split": split, **row} for row in rows),
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
    """Folder of the prepared rows: changes with all they depend on, also with the files of a local set."""
    from axolotl.utils.data.shared import generate_dataset_hash_from_config
    from datasets.fingerprint import Hasher

    from aspo_plugin.trl.datasets import prepare_version, processing_fingerprint

    from .datasets import limit_of

    settings = cfg.aspo or {}
    files = [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns)
        for entry in cfg[key]
        for root in map(Path, [entry["path"], *_listed_files(entry.get("data_files"))])
        if root.exists()
        for path in sorted([root, *root.rglob("*")])
        if path.is_file()
    ]
    return Hasher.hash(
        (
            generate_dataset_hash_from_config(cfg, cfg[key], str(cfg.tokenizer_config)),
            key,
            prepare_version(),
            processing_fingerprint(processing),
            limit_of(cfg),
            settings.get("alpha", 0.5) > 0,
            settings.get("similarity_model"),
            bool(settings.get("weight_rejected")),
            (cfg.seed, cfg.shuffle_merged_datasets, cfg.shuffle_before_merging_datasets),
            files,
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
        return load_dataset_with_config(known, cfg.hf_use_auth_token, streaming=False)

    return read


def _transform(cfg: Any, key: str) -> Callable[[Any, int], Callable[[Any], Any]]:
    from axolotl.loaders import load_tokenizer
    from axolotl.prompt_strategies.dpo import load
    from axolotl.utils.dict import DictDefault

    # Strategies read their entry from `datasets`, also those of `test_datasets`.
    own = DictDefault({**cfg, "datasets": cfg[key]})

    def transform(kind: Any, index: int) -> Callable[[Any], Any]:
        strategy = load(
            "user_defined.default" if isinstance(kind, DictDefault) else kind, own, dataset_idx=index
        )
        if strategy is None:
            raise ValueError(f"type: {kind} of {key} is no prompt strategy of Axolotl; see the log above.")
        function, options = strategy if isinstance(strategy, tuple) else (strategy, {})
        if "tokenizer" in inspect.signature(function).parameters:
            function = functools.partial(function, tokenizer=load_tokenizer(cfg))

        def apply(dataset: Any) -> Any:
            mapped = dataset.map(function, desc=f"Applying {kind}", **options)
            return mapped.select_columns(["prompt", "chosen", "rejected"])

        return apply

    return transform


def _score(cfg: Any) -> Callable[[str], Any]:
    from aspo_plugin.trl.similarity import dataset_scorer

    folder = Path(cfg.dataset_prepared_path or "last_run_prepared") / "similarity"
    return lambda model: dataset_scorer(model, folder)


def save_adapter_alone(cfg: Any, trainer: Any) -> None:
    """Keep Axolotl from writing the base model beside the adapter, with layers of both inside."""
    if cfg.adapter and not cfg.rl_adapter_ref_model and hasattr(trainer.model, "get_base_model"):
        trainer.model.get_base_model().save_pretrained = lambda *args, **kwargs: None


def check_trainer(trainer: Any) -> None:
    """Stop the run where another plugin or setting replaced the trainer."""
    from aspo_plugin.trl.trainer import AspoMixin

    if not isinstance(trainer, AspoMixin):
        raise RuntimeError(
            f"rl: aspo was asked for, but Axolotl built {type(trainer).__name__}: another plugin replaces "
            "the trainer. Remove it from plugins."
        )


def save_config(cfg: Any) -> None:
    """Write the config as the user thinks of it, `rl: aspo`, to `aspo_config.yaml` in the output folder."""
    import json

    import yaml

    if cfg.local_rank != 0:
        return
    plain = json.loads(
        json.dumps({key: value for key, value in cfg.items() if value is not None}, default=str)
    )
    plain.pop("trainer_cls")
    Path(cfg.output_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(cfg.output_dir) / "aspo_config.yaml", "w", encoding="utf-8") as stream:
        yaml.safe_dump({**plain, "rl": "aspo"}, stream)
