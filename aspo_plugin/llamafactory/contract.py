"""What `stage: aspo` relies on in LLaMA-Factory, and whether the installed version has it.

Imports nothing of ours: `patches` applies the adjustments, and a run with `stage: aspo` stops and names the
place where one is missing (`check_host`). Checked on the versions in `TESTED`, by `test_contract.py`.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

TESTED = ("0.9.4", "0.9.5")
PACKAGE = "llamafactory"
FORMATTING = "aspo"  # of the sets that `aspo-data` writes, in dataset_info.json

# Adjustments that did not find what they rely on: module -> what was missing.
problems: dict[str, str] = {}

# What runs and adjustments rely on: module, attribute, parameters it must take. `adjust` looks them up when
# the module is imported, `check_host` before a run. What an adjustment alone needs, it finds or fails with.
PLACES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("hparams.finetuning_args", "FinetuningArguments.__post_init__", ()),
    ("hparams.finetuning_args", "FinetuningArguments.to_dict", ()),
    ("data.converter", "register_dataset_converter", ("name", "dataset_converter")),
    ("data.converter", "get_dataset_converter", ("name", "dataset_attr", "data_args")),
    ("data.converter", "DatasetConverter._find_medias", ("medias",)),
    ("data.loader", "align_dataset", ("dataset", "dataset_attr", "data_args", "training_args")),
    (
        "data.loader",
        "_get_preprocessed_dataset",
        ("dataset", "data_args", "training_args", "stage", "template", "tokenizer", "processor", "is_eval"),
    ),
    (
        "data.loader",
        "_load_single_dataset",
        ("dataset_attr", "model_args", "data_args", "training_args"),
    ),
    ("data.loader", "get_dataset", ("template", "model_args", "data_args", "training_args", "stage")),
    ("data.parser", "get_dataset_list", ("dataset_names", "dataset_dir")),
    (
        "data.processor.pairwise",
        "PairwiseDatasetProcessor._encode_data_example",
        ("prompt", "response", "system", "tools", "images", "videos", "audios"),
    ),
    ("data.processor.processor_utils", "infer_seqlen", ("source_len", "target_len", "cutoff_len")),
    ("data.template", "ReasoningTemplate.remove_thought", ("content",)),
    ("data.collator", "PairwiseDataCollatorWithPadding.__call__", ("features",)),
    (
        "data.mm_plugin",
        "MMPluginMixin._get_mm_inputs",
        ("images", "videos", "audios", "processor", "imglens"),
    ),
    ("data.mm_plugin", "MMPluginMixin._preprocess_image", ("image",)),
    ("train.dpo", "run_dpo", ("model_args", "data_args", "training_args", "finetuning_args", "callbacks")),
    ("train.dpo.trainer", "CustomDPOTrainer.get_batch_loss_metrics", ("model", "batch", "train_eval")),
    ("train.dpo.trainer", "CustomDPOTrainer.prediction_step", ("model", "inputs", "prediction_loss_only")),
    ("train.dpo.trainer", "CustomDPOTrainer.log", ("logs",)),
    ("train.dpo.trainer", "CustomDPOTrainer.bco_loss", ()),
    ("train.trainer_utils", "create_ref_model", ("model_args", "finetuning_args")),
    ("extras.misc", "calculate_tps", ("dataset", "metrics", "stage")),
    ("extras.ploting", "plot_loss", ("save_dictionary", "keys")),
    ("model.model_utils.visual", "_register_composite_model", ("model_type",)),
    ("model", "load_config", ("model_args",)),
    ("model", "load_model", ("tokenizer", "model_args", "finetuning_args", "is_trainable")),
    ("model", "load_tokenizer", ("model_args",)),
)


def host_version() -> str:
    """The version of LLaMA-Factory that is installed."""
    return str(importlib.import_module(f"{PACKAGE}.extras.env").VERSION)


def missing_place(module: ModuleType, path: str, parameters: tuple[str, ...]) -> str | None:
    """None if `module` has `path` (dotted) taking `parameters`, else a description of what is missing."""
    found: Any = module
    for name in path.split("."):
        if not hasattr(found, name):
            return f"{module.__name__}.{path} does not exist"
        found = getattr(found, name)
    taken = inspect.signature(found).parameters if parameters else {}
    lacking = [name for name in parameters if name not in taken]
    if lacking:
        return f"{module.__name__}.{path} takes no {', '.join(lacking)}"
    return None


def check_host() -> None:
    """Stop a `stage: aspo` run where the host lacks a place it relies on; warn on an untested version.

    Raises `RuntimeError` naming every missing place.
    """
    from llamafactory.extras import logging

    missing = [f"{name}: {what}" for name, what in problems.items()]
    for name, path, parameters in PLACES:
        try:
            module = importlib.import_module(f"{PACKAGE}.{name}")
        except ImportError as error:
            missing.append(f"{PACKAGE}.{name} cannot be imported ({error})")
            continue
        found = missing_place(module, path, parameters)
        if found:
            missing.append(found)
    version = host_version()
    if missing:
        raise RuntimeError(
            f"`stage: aspo` cannot run on LLaMA-Factory {version}, which lacks places that "
            f"aspo-plugin relies on: {'; '.join(dict.fromkeys(missing))}. "
            f"Tested versions: {', '.join(TESTED)}."
        )
    if version not in TESTED:
        logging.get_logger("llamafactory.aspo").warning_rank0(
            f"aspo-plugin was tested with LLaMA-Factory {', '.join(TESTED)}, not with {version}. "
            "Every place it relies on was found."
        )


def check_way() -> None:
    """Stop `stage: aspo`, which the host takes for `dpo`, where no way leads from there to our workflow.

    Raises `RuntimeError`. Called where the arguments are parsed: the last place that every version passes.
    """
    tuner = sys.modules.get(f"{PACKAGE}.train.tuner")
    if tuner is not None and not getattr(getattr(tuner, "run_dpo", None), "leads_to_aspo", False):
        problems[f"{PACKAGE}.train.tuner"] = "it does not call the run_dpo of train.dpo"
    if problems:
        raise RuntimeError(
            f"`stage: aspo` would train plain DPO on LLaMA-Factory {host_version()}: "
            f"{'; '.join(f'{name}: {what}' for name, what in problems.items())}. "
            f"Tested versions: {', '.join(TESTED)}."
        )


@contextmanager
def sentence_data(sentences: Any) -> Iterator[None]:
    """While a run reads its data, `sentences.align` and `.preprocess` stand in for the host's own steps, and
    `.reading` around its reading of a dataset.

    Relies on: data/loader.py's get_dataset calling them through its module. Can go when the host lets a stage
    bring its own processor.
    """
    loader: Any = importlib.import_module(f"{PACKAGE}.data.loader")
    ours = {
        "align_dataset": sentences.align,
        "_get_preprocessed_dataset": sentences.preprocess,
        "_load_single_dataset": sentences.reading(loader._load_single_dataset),
    }
    before = {name: getattr(loader, name) for name in ours}
    vars(loader).update(ours)
    try:
        yield
    finally:
        vars(loader).update(before)
