"""The policy's model as its own reference: adapter, gradient checkpointing and noise off, by flags alone.

PEFT's `disable_adapter` walks all modules twice and switches the adapter's `requires_grad` (32 ms of a CPU
for 224 LoRA layers). TRL's `disable_gradient_checkpointing` adds another hook to the input embedding each
time it switches checkpointing on again, so a long run gets slower. A pass without gradients needs neither.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

# Their modules, looked for once: `nn.Module.modules` of a vision-language model takes milliseconds.
_adapted: weakref.WeakKeyDictionary[nn.Module, list[Any]] = weakref.WeakKeyDictionary()
_checkpointed: weakref.WeakKeyDictionary[nn.Module, list[Any]] = weakref.WeakKeyDictionary()
_embedded: weakref.WeakKeyDictionary[nn.Module, list[Any]] = weakref.WeakKeyDictionary()


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """While open, a `PeftModel` computes as its base model does.

    As `model.disable_adapter()`, which serves the adapters that are not layers in the model (prompt tuning).
    Relies on the flag `_disable_adapters` of PEFT's layers; checked with PEFT 0.18 to 0.21.
    """
    if model not in _adapted:
        _adapted[model] = [module for module in model.modules() if hasattr(module, "_disable_adapters")]
    config = model.peft_config[model.active_adapter]
    if config.is_prompt_learning or config.is_adaption_prompt or not _adapted[model]:
        with model.disable_adapter():
            yield
        return
    with _set(_adapted[model], "_disable_adapters", True):
        yield


@contextmanager
def checkpointing_off(model: nn.Module) -> Iterator[None]:
    """While open, no layer of `model` computes under gradient checkpointing. For passes without gradients."""
    if model not in _checkpointed:
        _checkpointed[model] = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    with _set(_checkpointed[model], "gradient_checkpointing", False):
        yield


@contextmanager
def noise_off(model: nn.Module) -> Iterator[None]:
    """While open, NEFTune adds nothing to the embeddings: a cached reference would keep one draw of it.

    Relies on `neftune_noise_alpha`, which the hook of `transformers` reads from the embedding.
    """
    if model not in _embedded:
        _embedded[model] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    noisy = [module for module in _embedded[model] if hasattr(module, "neftune_noise_alpha")]
    with _set(noisy, "neftune_noise_alpha", 0.0):
        yield


@contextmanager
def _set(modules: list[Any], flag: str, value: Any) -> Iterator[None]:
    before = [getattr(module, flag) for module in modules]
    for module in modules:
        setattr(module, flag, value)
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            setattr(module, flag, own)
