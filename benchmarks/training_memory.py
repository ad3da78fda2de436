"""Peak memory of one training step at true 7B shapes, on any machine: counted, not allocated.

Weights and activations are fake tensors, which have shapes, types and storages of a size but no content;
token ids and masks are real. So each operation of the host's and of our code runs as it would, and
`PeakBytes` adds up what it holds. As recipes train: bfloat16 weights, LoRA in float32 under autocast,
gradient checkpointing.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.training_models import Setting, batch, build
from benchmarks.training_peak import PeakBytes

Step = Callable[[dict[str, Any]], Any]


def peaks(setting: Setting, makers: dict[str, Callable[[Any, str], Step]], device: str) -> dict[str, int]:
    """Bytes over the weights, by way, allocated on a GPU and counted on a CPU.

    ASPO's ways come after the host's: they change what PEFT does with the model's adapters.
    """
    from accelerate.utils import convert_outputs_to_fp32

    from aspo_plugin.training.adapters import keep_input_dtype

    counted = device == "cpu"
    model = build(setting, "7B", torch.bfloat16, "meta" if counted else device)
    model = _fake(model) if counted else model
    given = batch(model, setting, device, torch.bfloat16)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        steps = {way: make(model, folder) for way, make in makers.items()}
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
        # What accelerate's `prepare_model` does for `bf16: true`.
        model.forward = convert_outputs_to_fp32(torch.autocast(device, torch.bfloat16)(model.forward))
        for way, step in steps.items():
            if way != "host":
                keep_input_dtype(model)
                step.prepare(given)  # type: ignore[attr-defined]
            if way != "host" or not counted:  # a first step warms up, and probes the output layer
                with _RealIndices() if counted else nullcontext():
                    step(given).backward()
                model.zero_grad(set_to_none=True)
                gc.collect()
            found[way] = _counted(step, given) if counted else _allocated(step, given)
            model.zero_grad(set_to_none=True)
    return found


def _counted(step: Step, given: dict[str, Any]) -> int:
    with _RealIndices(), PeakBytes() as bytes_:
        step(given).backward()
    return bytes_.peak


def _allocated(step: Step, given: dict[str, Any]) -> int:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(given).backward()
    return torch.cuda.max_memory_allocated() - before


def _fake(model: Any) -> Any:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    fake = torch.empty(value.shape, dtype=value.dtype)
                    module._parameters[name] = torch.nn.Parameter(fake, value.requires_grad)
            for name, value in list(module._buffers.items()):
                if value is not None:
                    module._buffers[name] = torch.empty(value.shape, dtype=value.dtype)
    model.to = lambda *args, **kwargs: model
    return model


class _RealIndices(TorchDispatchMode):
    """Answers what depends on contents: masks of real token ids are counted, fake numbers are 0 and equal."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.index.Tensor:
            indices: list[Any] = []
            for index in args[1]:
                masked = index is not None and index.dtype == torch.bool
                indices += index.nonzero().unbind(1) if masked else [index]
            args = (args[0], indices)
        elif args and isinstance(args[0], FakeTensor):
            if function is torch.ops.aten._local_scalar_dense.default:
                return 0.0
            if function is torch.ops.aten.equal.default:
                return True
        return function(*args, **(kwargs or {}))
