"""What the reference's log-probs depend on in a LLaMA-Factory run, besides tokens and media."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.integrations import is_deepspeed_zero3_enabled

from aspo_plugin.reference_cache.fingerprint import media_settings, settings_identity, weights_identity


def reference_fingerprint(
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    tokenizer_module: dict[str, Any],
) -> dict[str, str]:
    """Of the reference model, named by `ref_model` or else the policy before training."""
    model, adapters, bits = _reference(model_args, finetuning_args)
    revision, cache = model_args.model_revision, getattr(model_args, "cache_dir", None)
    processor = tokenizer_module["processor"]
    options = {
        name: value
        for name, value in vars(model_args).items()
        if name.startswith(("image_", "video_", "audio_", "crop_to_patches", "use_audio_in_video"))
    }
    kind = ("quantization_method", "quantization_type", "double_quantization")
    quantization = [bits, *(str(getattr(model_args, name)) for name in kind)] if bits else "none"
    precision = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "float32"
    return {
        "model": weights_identity(model, revision, cache),
        "adapter": " ".join(weights_identity(name, None, cache) for name in adapters) or "none",
        "dtype": f"{model_args.compute_dtype}, training in {precision}",
        "quantisation": settings_identity(quantization),
        "rope_scaling": str(getattr(model_args, "rope_scaling", None)),
        "template": str(data_args.template),
        "images, videos and audio": settings_identity([media_settings(processor), options]),
    }


def reference_name(model_args: Any, finetuning_args: Any) -> str:
    """How a reader knows the reference, wherever its folders lie: model and merged adapters."""
    model, adapters, _ = _reference(model_args, finetuning_args)
    return " + ".join(Path(name).name for name in (model, *adapters))


def _reference(model_args: Any, finetuning_args: Any) -> tuple[str, list[str], int | None]:
    """Model, adapters merged into it, and bits. The host loads a `ref_model` with all of the policy's model
    arguments but these three."""
    if finetuning_args.ref_model is not None:
        given = finetuning_args.ref_model_adapters or []
        adapters = [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
        return finetuning_args.ref_model, adapters, finetuning_args.ref_model_quantization_bit
    adapters = list(model_args.adapter_name_or_path or [])
    # The last is trained further, and off in the reference, unless a new one is made. (Under ZeRO-3 the host
    # merges none.)
    if not finetuning_args.create_new_adapter or is_deepspeed_zero3_enabled():
        adapters = adapters[:-1]
    return model_args.model_name_or_path, adapters, model_args.quantization_bit
