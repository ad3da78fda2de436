"""Keys of either host that change the memory and that `aspo-plan` does not count: each is told of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Key -> whether a run with it needs less or more than what is counted.
KEYS = {
    "llamafactory": {
        "pure_bf16": "less",
        "use_badam": "less",
        "use_galore": "less",
        "use_apollo": "less",
        "use_unsloth": "less",
        "use_llama_pro": "less",
        "ref_model_quantization_bit": "less",
        "use_dora": "more",
        "resize_vocab": "more",
        "pissa_init": "more",
    },
    "axolotl": {
        "load_in_8bit": "less",
        "layer_offloading": "less",
        "activation_offloading": "less",
        "ple_cpu_offload": "less",
        "quantize_moe_experts": "less",
        "context_parallel_size": "less",
        "tensor_parallel_size": "less",
        "peft_use_dora": "more",
        "peft_trainable_token_indices": "more",
        "lora_target_parameters": "more",
    },
}
OPTIMIZER = {"llamafactory": "optim", "axolotl": "optimizer"}


def notes(host: str, values: dict[str, Any]) -> Iterator[str]:
    """One line for each key of `values` that is not counted."""
    for key, effect in KEYS[host].items():
        value = values.get(key)
        if value and not (isinstance(value, int) and not isinstance(value, bool) and value == 1):
            yield f"note: {key} is not counted: the run needs {effect} than this."
    optimizer = values.get(OPTIMIZER[host])
    if optimizer and not str(optimizer).startswith("adamw_torch"):
        yield f"note: {OPTIMIZER[host]} is not counted: the states are those of AdamW, not of {optimizer}."
    if values.get("bf16") is False and not values.get("fp16"):
        yield "note: bf16: false is not counted: the run needs more than this."
    if isinstance(values.get("gradient_checkpointing"), str):
        yield "note: gradient_checkpointing is counted as true: the run needs less than this."


def offloaded(deepspeed: dict[str, Any], fsdp: Any) -> Iterator[str]:
    """One line for each part that `deepspeed`'s zero_optimization or FSDP's block moves to another place."""
    for key in ("offload_optimizer", "offload_param"):
        given = deepspeed.get(key)
        if isinstance(given, dict) and given.get("device", "cpu") != "none":
            yield f"note: {key} is not counted: the run needs less than this."
    if isinstance(fsdp, dict) and fsdp.get("offload_params"):
        yield "note: offload_params is not counted: the run needs less than this."
