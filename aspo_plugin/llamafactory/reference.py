"""What the reference's log-probs depend on in a LLaMA-Factory run, besides tokens and images."""

from __future__ import annotations

from typing import Any

from aspo_plugin.core.fingerprint import settings_identity, weights_identity


def reference_fingerprint(
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    tokenizer_module: dict[str, Any],
) -> dict[str, str]:
    """Of the reference model, named by `ref_model` or else the policy before training."""
    adapters, bits, revision = model_args.adapter_name_or_path, model_args.quantization_bit, None
    cache = getattr(model_args, "cache_dir", None)
    model = finetuning_args.ref_model
    if model is None:
        model, revision = model_args.model_name_or_path, model_args.model_revision
    else:
        adapters, bits = finetuning_args.ref_model_adapters, finetuning_args.ref_model_quantization_bit
    if isinstance(adapters, str):
        adapters = [name.strip() for name in adapters.split(",")]
    processor = tokenizer_module["processor"]
    pixels = {name: value for name, value in vars(model_args).items() if name.startswith("image_")}
    precision = "bf16" if training_args.bf16 else "fp16" if training_args.fp16 else "float32"
    return {
        "model": weights_identity(model, revision, cache),
        "adapter": " ".join(weights_identity(name, None, cache) for name in adapters or []) or "none",
        "dtype": f"{model_args.compute_dtype}, training in {precision}, {bits or 'no'} bit quantisation",
        "rope_scaling": str(getattr(model_args, "rope_scaling", None)),
        "template": str(data_args.template),
        "images": settings_identity(
            [getattr(processor, "image_processor", None) and processor.image_processor.to_dict(), pixels]
        ),
    }
