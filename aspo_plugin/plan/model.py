"""Sizes of a model and of what a run trains of it, counted on the real classes without weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_tools.nearest import not_here
from dataset_tools.own_code import refused_code

from .recipe import Run
from .shapes import SHAPES

# Parts of parameter names outside the language model. Both hosts leave them alone by default.
TOWERS = ("vision", "visual", "audio", "qformer", "query_tokens", "image_newline")
PROJECTOR = ("multi_modal_projector", "language_projection", "connector", "merger")
# Parts of towers whose names look like a projector's, and a projector's that look like a tower's.
_OF_THE_TOWER, _OF_THE_PROJECTOR = ("deepstack_merger", "vision_tower"), ("embed_vision", "embed_audio")
# What LLaMA-Factory's list of a frozen tower's parts leaves out, so that full training trains it.
LEFT_TRAINABLE = {
    "glm4v": ("visual.downsample", "visual.embeddings", "visual.post_conv_layernorm", "visual.post_layernorm")
}


@dataclass(frozen=True)
class Shape:
    """Counts of parameters, and widths of the language model.

    `quantizable`: weights of all linear layers but the output's, which 4-bit loading shrinks. `attention`:
    width of queries, keys and values together. `largest`: parameters of the largest piece that sharding
    gathers at once.
    """

    parameters: int
    trainable: int
    quantizable: int
    hidden: int
    inner: int
    attention: int
    layers: int
    vocabulary: int
    largest: int


def shape_of(run: Run, folder: Path | None = None, tell: Callable[[str], Any] = lambda text: None) -> Shape:
    """The shape of the run's model; `tell` hears what is waited for.

    Raises `ValueError` where its config is neither known, nor given, nor on the Hub.
    """
    return measure(config_of(run.model, folder, tell), run)


def config_of(name: str, folder: Path | None = None, tell: Callable[[str], Any] = lambda text: None) -> Any:
    """The config of the model called `name`: in `folder`, at `name` on disk, of the known ones, or the Hub's.

    From the Hub comes config.json alone, and `tell` says so before; not with HF_HUB_OFFLINE.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    place = folder or Path(name)
    if (place / "config.json").is_file():
        try:
            return AutoConfig.from_pretrained(place, trust_remote_code=False)
        except ValueError as error:
            raise ValueError(refused_code(str(place), error) or str(error)) from None
    if name in SHAPES:
        kind, values = SHAPES[name]
        if kind not in CONFIG_MAPPING:
            raise ValueError(
                f"transformers {__version__}, which is installed here, has no class of {name}: count in the "
                "environment of a newer one, or take another model."
            )
        return AutoConfig.for_model(kind, **values)
    unknown = f"the shape of {name} is not known here"
    remedy = f"give --config FOLDER with its config.json. Known: {', '.join(SHAPES)}."
    if folder is not None:
        raise ValueError(f"{unknown}: {remedy}")
    if problem := not_here(name):
        raise ValueError(f"{unknown}: {problem} Or {remedy}")
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:
        tell(f"waiting for the config.json of {name} from the Hub")
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if refusal := refused_code(name, error):
            raise ValueError(refusal) from None
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{unknown}, and the Hub gave none ({first}): {remedy}") from None


def empty_model(config: Any) -> Any:
    """The model of `config` on the meta device: real classes, no memory."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText
    if type(config) not in kind._model_mapping:
        kind = AutoModelForCausalLM
    with torch.device("meta"):
        try:
            return kind.from_config(config, trust_remote_code=False)
        except ValueError as error:
            name = getattr(config, "name_or_path", "") or config.model_type
            raise ValueError(refused_code(name, error) or str(error)) from None


def measure(config: Any, run: Run) -> Shape:
    """Counts for `run` on the model of `config`."""
    from torch import nn

    model = empty_model(config)
    text = config.get_text_config()
    heads = text.num_attention_heads
    size = max(_width(text, "head_dim"), _width(text, "global_head_dim")) or text.hidden_size // heads
    linear = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    ]
    if run.method == "full":
        left = LEFT_TRAINABLE.get(config.model_type, ()) if run.host == "llamafactory" else ()
        trainable = sum(
            value.numel()
            for name, value in model.named_parameters()
            if _is_trained(name, run) or _has(name, left)
        )
    else:
        wanted = [module for name, module in model.named_modules() if _is_target(name, module, run)]
        trainable = sum(run.rank * (module.in_features + module.out_features) for module in wanted)
        trainable += sum(value.numel() for value in _saved(model, run.extra))
    if not trainable:
        patterns = run.trained if run.method == "full" else run.targets
        raise ValueError(f"no part of {run.model} is trained by {patterns!r}.")
    layers = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [sum(value.numel() for value in block.parameters()) for group in layers for block in group]
    embedding = text.vocab_size * text.hidden_size
    return Shape(
        parameters=sum(value.numel() for value in model.parameters()),
        trainable=trainable,
        quantizable=sum(module.weight.numel() for module in linear),
        hidden=text.hidden_size,
        inner=_inner(text, run.model),
        attention=size * (heads + 2 * (_width(text, "num_key_value_heads") or heads)),
        layers=text.num_hidden_layers,
        vocabulary=text.vocab_size,
        largest=max([*blocks, embedding]),
    )


def _width(text: Any, name: str) -> int:
    """The number that `text`, a language model's config, holds under `name`: of its widest layer; 0 for none.

    Gemma 4's layers differ. A config of transformers 5.20 tells such numbers of a single layer alone.
    """
    layers = getattr(text, "per_layer_config", None) or [text]
    return max(getattr(layer, name, None) or 0 for layer in layers)


def _inner(text: Any, model: str) -> int:
    """Width of the MLP that a token passes: of the dense one, or of all its experts together.

    An expert's is `moe_intermediate_size`, or, as in Mixtral, `intermediate_size`. Raises `ValueError` for 0.
    """
    dense, expert = _width(text, "intermediate_size"), _width(text, "moe_intermediate_size")
    used = max(_width(text, "num_experts_per_tok"), _width(text, "top_k_experts"))
    shared = max(
        _width(text, "shared_expert_intermediate_size"), _width(text, "n_shared_experts") * (expert or dense)
    )
    widest = max(dense, used * (expert or dense) + shared)
    if not widest:
        raise ValueError(
            f"the config of {model} gives no width of an MLP (intermediate_size, or moe_intermediate_size "
            "and num_experts_per_tok): give --config FOLDER with a config.json that does."
        )
    return widest


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _is_trained(name: str, run: Run) -> bool:
    if run.trained:
        return any(re.match(pattern, name) for pattern in run.trained)
    return part_of(name) in run.parts


def part_of(name: str) -> str:
    """Of a parameter or module: language, tower or projector."""
    if _has(name, _OF_THE_PROJECTOR) or (_has(name, PROJECTOR) and not _has(name, _OF_THE_TOWER)):
        return "projector"
    return "tower" if _has(name, TOWERS) or _has(name, _OF_THE_TOWER) else "language"


def _saved(model: Any, extra: tuple[str, ...]) -> list[Any]:
    """The parameters of the modules that PEFT copies and trains whole. Raises `ValueError` for none."""
    found = {}
    for wanted in extra:
        modules = [module for name, module in model.named_modules() if name.endswith(wanted)]
        if not modules:
            raise ValueError(f"the model has no module {wanted}, which is to be trained in full.")
        for module in modules:
            found.update({(wanted, id(value)): value for value in module.parameters()})
    return list(found.values())


def _is_target(name: str, module: Any, run: Run) -> bool:
    """Whether the host puts an adapter at this module."""
    from torch import nn

    if not isinstance(module, nn.Linear):
        return False
    if isinstance(run.targets, str) and run.targets not in ("all", "linear"):
        return re.fullmatch(run.targets, name) is not None
    if "lm_head" in name or part_of(name) not in run.parts:
        return False
    return run.targets in ("all", "linear") or name.rpartition(".")[2] in run.targets
