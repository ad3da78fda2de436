"""Every adjustment of LLaMA-Factory's private parts: what is adjusted, what it relies on, when it can go.

`aspo_autoload` calls `adjust` right after one of its `TARGETS` has been imported. An adjustment that does not
find what it relies on changes nothing and is remembered in `contract.problems`: plain stages go on as without
this package.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from . import contract
from .contract import FORMATTING, PACKAGE, PLACES, host_version, missing_place


def adjust(module: ModuleType) -> None:
    """Apply the adjustment of one module that has just been imported."""
    name = module.__name__.removeprefix(f"{PACKAGE}.")
    found = [missing_place(module, path, parameters) for place, path, parameters in PLACES if place == name]
    missing = next((what for what in found if what), None)
    if missing is None:
        before = dict(vars(module))
        try:
            ADJUSTMENTS[name](module)
            _rebind(module, before)
        except Exception as error:
            # A host that changed must not lose its plain stages; `stage: aspo` stops with this.
            missing = repr(error)
    if missing is not None:
        # No later check will run: the host knows no `stage: aspo`, and no run passes through the board.
        if name.startswith("webui."):
            sys.stderr.write(f"aspo-plugin could not make LLaMA Board ready for ASPO: {missing}\n")
            return
        contract.problems[module.__name__] = missing
        if name == "hparams.finetuning_args":
            sys.stderr.write(f"aspo-plugin could not add `stage: aspo` to LLaMA-Factory: {missing}\n")


def _rebind(module: ModuleType, before: dict[str, Any]) -> None:
    """What was replaced in `module`, also where the host had imported it by name.

    It had where its first module imports torch after the adjusted one, as `llamafactory.hparams` does.
    """
    replaced = {name: old for name, old in before.items() if vars(module).get(name) is not old}
    for other in [found for key, found in sys.modules.items() if key.startswith(f"{PACKAGE}.")]:
        for name, old in replaced.items():
            if getattr(other, "__dict__", {}).get(name) is old:
                setattr(other, name, vars(module)[name])


def _finetuning_args(module: Any) -> None:
    """`stage: aspo` and the `aspo_*` fields. Before hparams/parser.py imports the class, which it keeps.

    Relies on: a dataclass with a Literal `stage`. Can go when the host has a stage registry.
    """
    from .arguments import extend

    module.FinetuningArguments = extend(module.FinetuningArguments)


def _converter(module: Any) -> None:
    """`formatting: aspo`, through the host's own registry.

    The class is imported when a set is read: its module may be what imports the host's, and be half-way.
    """

    def converter(*given: Any) -> Any:
        from .converter import AspoDatasetConverter

        return AspoDatasetConverter(*given)

    if FORMATTING not in module.DATASET_CONVERTERS:
        module.register_dataset_converter(FORMATTING, converter)


def _loader(module: Any) -> None:
    """Images of `formatting: aspo` reach every stage as stored.

    Relies on: get_dataset calling the module's align_dataset. Can go when the host stops re-encoding images.
    """
    original = module.align_dataset

    @functools.wraps(original)
    def align_dataset(dataset: Any, dataset_attr: Any, *args: Any, **kwargs: Any) -> Any:
        if dataset_attr.formatting == FORMATTING:
            from .converter import undecoded

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
    ) -> Any:
        from .arguments import is_aspo

        if not is_aspo(finetuning_args):
            return original(model_args, data_args, training_args, finetuning_args, *rest, **more)
        from .workflow import run_aspo

        return run_aspo(model_args, data_args, training_args, finetuning_args, *rest, **more)

    run_dpo.leads_to_aspo = True  # type: ignore[attr-defined]
    module.run_dpo = run_dpo


def _v1_arguments(module: Any) -> None:
    """`USE_V1=1` starts another code base, which has no stages and no place for a trainer of ours.

    Relies on: every command of it reading its arguments here. Can go when its `BasePlugin` registries take a
    trainer, and `stage: aspo` with them.
    """
    original = module.get_args

    @functools.wraps(original)
    def get_args(args: Any = None) -> Any:
        if _asks_for_aspo(sys.argv[1:] if args is None else args):
            raise ValueError(
                "USE_V1=1 starts LLaMA-Factory's v1, which has no `stage: aspo`, and would train something "
                "else or nothing: unset USE_V1."
            )
        return original(args)

    module.get_args = get_args


def _asks_for_aspo(args: Any) -> bool:
    """Whether a config file, flags or a dict say `stage: aspo`."""
    if isinstance(args, dict):
        return args.get("stage") == "aspo"
    files = [Path(word) for word in args[:1] if word.endswith((".yaml", ".yml", ".json"))]
    texts = [" ".join(args), *(file.read_text(encoding="utf-8") for file in files if file.is_file())]
    return any(re.search(r"\bstage[\s\"':=]+aspo\b", text) for text in texts)


def _dpo_trainer(module: Any) -> None:
    """The host's DPO trainer refuses a `stage: aspo` run, should a way to it lead around our workflow."""
    original = module.CustomDPOTrainer.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        from .arguments import is_aspo

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


def _webui_train(module: Any) -> None:
    """LLaMA Board has ASPO's fields. Can go when the board takes fields of a plugin."""
    from .board import add_texts, with_fields

    add_texts(importlib.import_module(f"{PACKAGE}.webui.locales").LOCALES)
    module.create_train_tab = with_fields(module.create_train_tab)


def _webui_runner(module: Any) -> None:
    """LLaMA Board sends the preference settings with ASPO too. Relies on: Runner._parse_train_args(data)."""
    original = module.Runner._parse_train_args

    @functools.wraps(original)
    def _parse_train_args(self: Any, data: dict[Any, Any]) -> dict[str, Any]:
        args: dict[str, Any] = original(self, data)
        if args["stage"] == "aspo":
            from .board import arguments_of

            args = {**arguments_of(self, data), **args}
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
    "v1.config.arg_parser": _v1_arguments,
    "webui.components.train": _webui_train,
    "webui.control": _webui_control,
    "webui.runner": _webui_runner,
}
