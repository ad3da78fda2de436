"""A small copy of a model: its class and widths, its first layers, random float32 weights, few tokens.

What an architecture does with masks and positions shows in it, at the cost of some seconds and of the layers'
memory. The embedding of a token and the output layer play no part in that, so both are kept small.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from aspo_plugin.logprobs.output_layer import output_head, unwrap
from aspo_plugin.logprobs.vision_tower import vision_towers

TOKENS = 512
LARGEST = {"cpu": 10**9}  # parameters; elsewhere:
LARGEST_ELSEWHERE = 4 * 10**9
_SMALL = 1 << 20  # parameters of a matrix, or gradients of it are not kept


class NoSmallCopy(Exception):
    """Why no small copy of a model can be made, in words."""


def small_copy(model: nn.Module, device: torch.device) -> Any:
    """The copy on `device`, in training mode without dropout. Raises `NoSmallCopy`.

    It has the first layers of the language model, up to the first of each kind, at least two. Of its
    parameters those want gradients that are small, so that gradients cost no memory.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    if is_deepspeed_zero3_enabled():
        raise NoSmallCopy("ZeRO-3 builds every model in pieces")
    base: Any = unwrap(model)
    whole = _plain_config(base.config)
    depth = getattr(whole.get_text_config(), "num_hidden_layers", None)
    if not isinstance(depth, int):
        raise NoSmallCopy("its config names no number of layers")
    with torch.device("meta"):
        kinds = _kinds_of_layers(type(base)(whole), depth)
    layers = max(min(depth, 2), 1 + max(kinds.index(kind) for kind in kinds))
    config = _first_layers(_plain_config(base.config), layers)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in type(base)(config).parameters() if not _is_table(p, config))
    if parameters > LARGEST.get(device.type, LARGEST_ELSEWHERE):
        raise NoSmallCopy(f"{layers} layers of it have {parameters / 1e9:.0f} billion parameters")
    with device, _TablesOnMeta(config):
        copied = type(base)(config)
    _with_small_tables(copied, device)
    _fill(copied.to(device).float(), device)
    return copied.train()


def _plain_config(config: Any) -> Any:
    """A copy that builds in float32, without quantization and dropout."""
    config = copy.deepcopy(config)
    for part in _parts(config):
        for name in list(vars(part)):
            if name in ("dtype", "torch_dtype", "_dtype"):
                setattr(part, name, None)
            elif "dropout" in name or name in ("drop_path_rate", "router_jitter_noise"):
                if isinstance(getattr(part, name), float):
                    setattr(part, name, 0.0)
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def _parts(config: Any) -> list[Any]:
    from transformers import PretrainedConfig

    inner = [value for value in vars(config).values() if isinstance(value, PretrainedConfig)]
    return [config, *(part for value in inner for part in _parts(value))]


def _first_layers(config: Any, layers: int) -> Any:
    text = config.get_text_config()
    depth = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == depth:
            setattr(text, name, value[:layers])
    text.num_hidden_layers = layers
    return config


def _kinds_of_layers(model: Any, depth: int) -> list[tuple[Any, ...]]:
    """What distinguishes each layer of the language model: classes and settings of its modules."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    stacks = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not stacks:
        raise NoSmallCopy("its layers are not found")
    return [
        tuple((name, type(module), _settings(module, index)) for name, module in layer.named_modules())
        for index, layer in enumerate(stacks[0])
    ]


def _settings(module: nn.Module, index: int) -> tuple[Any, ...]:
    """Its plain attributes but the number of its layer."""
    plain = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple | type(None))}
    numbers = {k for k, v in plain.items() if not isinstance(v, bool) and v == index}
    return tuple(sorted((name, repr(value)) for name, value in plain.items() if name not in numbers))


def _vocabularies(config: Any) -> set[int]:
    found = {v for part in _parts(config) for k, v in vars(part).items() if "vocab" in k}
    return {value for value in found if isinstance(value, int) and value > TOKENS}


def _is_table(parameter: Tensor, config: Any) -> bool:
    return parameter.ndim == 2 and len(parameter) in _vocabularies(config)


class _TablesOnMeta(TorchFunctionMode):
    """While open, a matrix with a row per token takes no memory."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.rows = _vocabularies(config)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty and args:
            size = args[0] if isinstance(args[0], list | tuple | torch.Size) else args
            if len(size) == 2 and size[0] in self.rows:
                kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)


def _with_small_tables(model: Any, device: torch.device) -> None:
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_meta:
            continue
        module.weight = nn.Parameter(torch.empty(TOKENS, weight.shape[1], device=device))
        if isinstance(module, nn.Embedding):
            module.num_embeddings, module.padding_idx = TOKENS, None
            module.register_forward_pre_hook(lambda _, args: (args[0] % TOKENS, *args[1:]))
        elif isinstance(module, nn.Linear):
            module.out_features = TOKENS
            if module.bias is not None:
                module.bias = nn.Parameter(torch.empty(TOKENS, device=device))
    if any(p.is_meta for p in (*model.parameters(), *model.buffers())):
        raise NoSmallCopy("its embeddings are not found")
    if output_head(model) is None:
        raise NoSmallCopy("it names no output layer")


def _fill(model: Any, device: torch.device) -> None:
    """With random weights; those want gradients that are small, and are in no vision tower."""
    random = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=random, device=device)
            if parameter.ndim > 1:  # larger than at initialisation, so that faults show
                parameter.copy_(noise).mul_(1.5 * max(parameter.shape[-2:]) ** -0.5)
            else:  # a gate that begins closed would hide what is behind it
                parameter.nan_to_num_().clamp_(-4, 4).add_(noise, alpha=0.1)
            parameter.requires_grad_(parameter.numel() <= _SMALL)
    for tower in vision_towers(model):
        tower.requires_grad_(False)
