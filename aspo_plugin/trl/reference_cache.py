"""The reference cache of a `DPOTrainer`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate.utils import is_peft_model
from trl.trainer import dpo_trainer
from trl.trainer.utils import get_config_model_id, use_adapter

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.reference_cache.fingerprint import (
    loaded_identity,
    settings_identity,
    weights_identity,
)
from aspo_plugin.training.reference import Live, WithoutAdapter, live_reference

# Keys of a config with a place of their own in the fingerprint, and keys that change no number: Transformers'
# trainer copies the tokenizer's special ids into a config as it starts to train.
_ELSEWHERE = {"_name_or_path", "dtype", "quantization_config"}
_NO_NUMBERS = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "use_cache"}
_LEFT_OUT = _ELSEWHERE | _NO_NUMBERS


@contextmanager
def no_reference_copy(model: Any) -> Iterator[None]:
    """While open, a `DPOTrainer` made without a reference model loads none.

    Relies on: `DPOTrainer.__init__` loads it with `create_model_from_path`, after the policy where that is a
    path. Can go when: TRL takes a trainer without reference model whose loss needs none.
    """
    load, loaded = dpo_trainer.create_model_from_path, not isinstance(model, str)

    def policy_only(*args: Any, **kwargs: Any) -> Any:
        nonlocal loaded
        if loaded:
            return None
        loaded = True
        return load(*args, **kwargs)

    dpo_trainer.create_model_from_path = policy_only
    try:
        yield
    finally:
        dpo_trainer.create_model_from_path = load


def reference(trainer: Any, read: ResponseLogProbs) -> Live:
    """The reference of a `DPOTrainer`, which keeps a frozen copy of an adapter that is trained further."""
    if trainer.ref_model is None and "ref" in getattr(trainer.model, "peft_config", {}):
        return WithoutAdapter(read, trainer, partial(use_adapter, adapter_name="ref"))
    return live_reference(trainer, read)


def fingerprint(trainer: Any) -> dict[str, str]:
    """What the reference's log-probs depend on, besides tokens and media."""
    peft = is_peft_model(trainer.model)
    model = trainer.ref_model if trainer.ref_model is not None else trainer.model
    model = trainer.accelerator.unwrap_model(model)
    config, args = model.config, trainer.args
    image_processor = getattr(trainer.processing_class, "image_processor", None)
    precision = "bf16" if args.bf16 else "fp16" if args.fp16 else "float32"
    quantization = getattr(config, "quantization_config", None)
    return {
        "model": weights_identity(
            get_config_model_id(config),
            getattr(config, "_commit_hash", None),
            (getattr(args, "model_init_kwargs", None) or {}).get("cache_dir"),
        ),
        "weights in memory": loaded_identity(model),
        "adapter": _adapter(trainer.model) if peft and trainer.ref_model is None else "none",
        "config": settings_identity(_computing(config.to_dict())),
        "dtype": f"{config.dtype}, training in {precision}",
        "quantisation": "none" if quantization is None else settings_identity(quantization),
        "images": "none" if image_processor is None else settings_identity(image_processor),
    }


def _computing(config: Any) -> Any:
    """A config, with what was set over that of the model's folder, less what has its own place in the
    fingerprint and what tells nothing of the numbers."""
    if not isinstance(config, dict):
        return config
    return {key: _computing(value) for key, value in config.items() if key not in _LEFT_OUT}


def _adapter(model: Any) -> str:
    """Of the frozen copy that TRL keeps of an adapter that is trained further; "none" for a new adapter."""
    if "ref" not in model.peft_config:
        return "none"
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(model.named_parameters()):
        if ".ref." in name:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
