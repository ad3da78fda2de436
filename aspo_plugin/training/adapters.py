"""LoRA under mixed precision without float32 copies of every adapter's input.

PEFT keeps adapters in float32 and casts what goes into them to float32 too. Under autocast the product
casts that copy back, and keeps the result for the backward pass: the values it had at first, once more in
memory for each projection.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def keep_input_dtype(model: nn.Module) -> int:
    """Stop PEFT casting the inputs of LoRA layers while autocast is on; returns of how many.

    Layers with dropout or a LoRA variant (DoRA) compute on the cast input itself and are left alone. Relies
    on PEFT's `_cast_input_dtype`; without it nothing changes.
    """
    changed = 0
    for module in model.modules():
        cast = getattr(module, "_cast_input_dtype", None)
        if not hasattr(module, "lora_A") or cast is None or isinstance(cast, partial):
            continue
        dropouts = getattr(module, "lora_dropout", {}).values()
        if getattr(module, "lora_variant", None) or any(getattr(d, "p", 0) for d in dropouts):
            continue
        module._cast_input_dtype = partial(_cast_outside_autocast, cast)
        changed += 1
    return changed


def _cast_outside_autocast(
    cast: Callable[[Tensor, torch.dtype], Tensor], x: Tensor, dtype: torch.dtype
) -> Tensor:
    return x if x is not None and torch.is_autocast_enabled(x.device.type) else cast(x, dtype)
