"""LoRA under mixed precision without float32 copies of every adapter's input.

PEFT keeps adapters in float32 and casts what goes into them to float32 too. Under autocast the product
casts that copy back, and keeps the result for the backward pass: the values it had at first, once more in
memory for each projection.
"""

from __future__ import annotations

from torch import nn


def keep_input_dtype(model: nn.Module) -> int:
    """Stop PEFT casting the inputs of LoRA layers; returns of how many. For runs whose forwards all run
    under autocast: elsewhere float32 adapters could not take half-precision inputs.

    Layers with dropout or a LoRA variant (DoRA) compute on the cast input itself and are left alone.
    """
    changed = 0
    for module in model.modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "cast_input_dtype_enabled"):
            continue
        dropouts = getattr(module, "lora_dropout", {}).values()
        if getattr(module, "lora_variant", None) or any(getattr(d, "p", 0) for d in dropouts):
            continue
        module.cast_input_dtype_enabled = False
        changed += 1
    return changed
