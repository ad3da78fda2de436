"""Every contact with LLaMA-Factory's private parts: what is adjusted, what it relies on, when it can go.

`_autoload` calls `adjust` right after one of its `TARGETS` has been imported. An adjustment that does not
find what it relies on changes nothing and is remembered: plain stages go on as without this package, and a
run with `stage: aspo` stops and names the place (`check_host`). Checked on the versions in `TESTED`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

TESTED = ("0.9.4", "0.9.5")
PACKAGE = "llamafactory"

# Adjustments that did not find what they rely on: module -> what was missing.
problems: dict[str, str] = {}

# Every place that a run relies on, beyond what `adjust` checks: module, attribute, parameters it must take.
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
    ("train.dpo", "run_dpo", ("model_args", "data_args", "training_args", "finetuning_args", "callbacks")),
    ("train.dpo.trainer", "CustomDPOTrainer.get_batch_loss_metrics", ("model", "batch", "train_eval")),
    ("train.dpo.trainer", "CustomDPOTrainer.prediction_step", ("model", "inputs", "prediction_loss_only")),
    ("train.dpo.trainer", "CustomDPOTrainer.log", ("logs",)),
    ("train.dpo.trainer", "CustomDPOTrainer.bco_loss", ()),
    ("train.trainer_utils", "create_ref_model", ("model_args", "finetuning_args")),
    ("extras.misc", "calculate_tps", ("dataset", "metrics", "stage")),
    ("extras.ploting", "plot_loss", ("save_dictionary", "keys")),
    ("model", "load_model", ("tokenizer", "model_args", "finetuning_args", "is_trainable")),
    ("model", "load_tokenizer", ("model_args",)),
)


def host_version() -> str:
    """The version of LLaMA-Factory that is installed."""
    return importlib.import_module(f"{PACKAGE}.extras.env").VERSION


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


def adjust(module: ModuleType) -> None:
    """Apply the adjustment of one module that has just been imported."""
    name = module.__name__.removeprefix(f"{PACKAGE}.")
    found = [missing_place(module, path, parameters) for place, path, parameters in PLACES if place == name]
    missing = next((what for what in found if what), None)
    if missing is None:
        try:
            ADJUSTMENTS[name](module)
        except Exception as error:
            # A host that changed must not lose its plain stages; `stage: aspo` stops with this.
            missing = repr(error)
    if missing is not None:
        problems[module.__name__] = missing
        if name == "hparams.finetuning_args":  # no later check will run: the host knows no `stage: aspo`
            sys.stderr.write(f"aspo-plugin could not add `stage: aspo` to LLaMA-Factory: {missing}\n")


def _finetuning_args(module: Any) -> None:
    """`stage: aspo` and the `aspo_*` fields. Before hparams/parser.py imports the class, which it keeps.

    Relies on: a dataclass with a Literal `stage`. Can go when the host has a stage registry.
    """
    from .fields import extend

    module.FinetuningArguments = extend(module.FinetuningArguments)


def _converter(module: Any) -> None:
    """`formatting: aspo`, through the host's own registry."""
    from .converter import NAME, AspoDatasetConverter

    if NAME not in module.DATASET_CONVERTERS:
        module.register_dataset_converter(NAME, AspoDatasetConverter)


def _loader(module: Any) -> None:
    """Images of `formatting: aspo` reach every stage as stored.

    Relies on: get_dataset calling the module's align_dataset. Can go when the host stops re-encoding images.
    """
    from .converter import NAME, undecoded

    original = module.align_dataset

    @functools.wraps(original)
    def align_dataset(dataset: Any, dataset_attr: Any, *args: Any, **kwargs: Any) -> Any:
        if dataset_attr.formatting == NAME:
            dataset = undecoded(dataset)
        return original(dataset, dataset_attr, *args, **kwargs)

    module.align_dataset = align_dataset


def _template(module: Any) -> None:
    """Templates that the host lacks for models of our recipes."""
    try:
        templates = importlib.import_module("aspo_plugin.llamafactory.templates")
    except ModuleNotFoundError as error:
        if error.name != "aspo_plugin.llamafactory.templates":
            raise
        return
    templates.register()


def _visual(module: Any) -> None:
    """The parts of composite models of our recipes that the host does not know."""
    from .templates import register_composites

    register_composites()


def _train_dpo(module: Any) -> None:
    """Our workflow where the host calls run_dpo for what it takes for `dpo`.

    Relies on: train/tuner.py importing run_dpo from the package. Can go when the host has a stage registry.
    """
    original = module.run_dpo

    @functools.wraps(original)
    def run_dpo(
        model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, *rest: Any, **more: Any
    ):
        from .fields import is_aspo

        if not is_aspo(finetuning_args):
            return original(model_args, data_args, training_args, finetuning_args, *rest, **more)
        from .workflow import run_aspo

        return run_aspo(model_args, data_args, training_args, finetuning_args, *rest, **more)

    run_dpo.leads_to_aspo = True  # type: ignore[attr-defined]
    module.run_dpo = run_dpo


def _dpo_trainer(module: Any) -> None:
    """The host's DPO trainer refuses a `stage: aspo` run, should a way to it lead around our workflow."""
    original = module.CustomDPOTrainer.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from .fields import is_aspo

        if is_aspo(kwargs.get("finetuning_args")) and not getattr(self, "trains_aspo", False):
            raise RuntimeError(
                f"`stage: aspo` reached {type(self).__name__}, which would train plain DPO: "
                f"LLaMA-Factory {host_version()} took a way that aspo-plugin does not know."
            )
        original(self, *args, **kwargs)

    module.CustomDPOTrainer.__init__ = __init__


def _webui_control(module: Any) -> None:
    """LLaMA Board lists ASPO after DPO, with datasets of pairs. Relies on: both constants being shared."""
    stages = dict(module.TRAINING_STAGES)
    module.TRAINING_STAGES.clear()
    for name, stage in stages.items():
        module.TRAINING_STAGES[name] = stage
        if stage == "dpo":
            module.TRAINING_STAGES["ASPO"] = "aspo"
    module.STAGES_USE_PAIR_DATA.add("aspo")


def _webui_runner(module: Any) -> None:
    """LLaMA Board sends the preference settings with ASPO too. Relies on: Runner._parse_train_args(data)."""
    original = module.Runner._parse_train_args

    @functools.wraps(original)
    def _parse_train_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args = original(self, data)
        if args["stage"] == "aspo":
            for name in ("pref_beta", "pref_ftx", "pref_loss"):
                args.setdefault(name, data[self.manager.get_elem_by_id(f"train.{name}")])
        return args

    module.Runner._parse_train_args = _parse_train_args


ADJUSTMENTS: dict[str, Callable[[Any], None]] = {
    "hparams.finetuning_args": _finetuning_args,
    "data.converter": _converter,
    "data.loader": _loader,
    "data.template": _template,
    "model.model_utils.visual": _visual,
    "train.dpo": _train_dpo,
    "train.dpo.trainer": _dpo_trainer,
    "webui.control": _webui_control,
    "webui.runner": _webui_runner,
}


@contextmanager
def sentence_data(sentences: Any) -> Iterator[None]:
    """While a run reads its data, `sentences.align` and `.preprocess` stand in for the host's own steps.

    Relies on: data/loader.py's get_dataset calling both through its module. Can go when the host lets a stage
    bring its own processor.
    """
    loader: Any = importlib.import_module(f"{PACKAGE}.data.loader")
    before = loader.align_dataset, loader._get_preprocessed_dataset
    loader.align_dataset, loader._get_preprocessed_dataset = sentences.align, sentences.preprocess
    try:
        yield
    finally:
        loader.align_dataset, loader._get_preprocessed_dataset = before
