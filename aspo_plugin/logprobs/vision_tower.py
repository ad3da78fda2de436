"""A frozen vision tower: no backward pass through it, and one forward for policy and reference.

For gradient checkpointing the hosts make the outputs of all input embeddings require gradients, the patch
embedding's too. Autograd then keeps the tower's activations and walks back through all its layers, to
gradients that nothing reads. Where no weight of the tower is trained, its forward runs without gradients, and
what it gave the reference is what it would give the policy.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.logprobs import varlen
from aspo_plugin.logprobs.output_layer import unwrap

_NAMES = ("vision_tower", "visual", "vision_model")
# Towers that attend within windows or images of a packed row, and tell a flash attention where those end.
_PACKED = frozenset(
    "Qwen2VisionTransformerPretrainedModel Qwen2_5_VisionTransformerPretrainedModel Qwen3VLVisionModel "
    "Qwen3VLMoeVisionModel".split()
)
_PACKED_ATTENTION = "aspo_flash_varlen"
_shareable: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def vision_towers(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that see nothing but pixels."""
    base = unwrap(model)
    owners = [owner for owner in (base, getattr(base, "model", None)) if isinstance(owner, nn.Module)]
    found = [getattr(owner, name, None) for owner in owners for name in _NAMES]
    # Older names of the same module are kept as properties.
    return list({id(tower): tower for tower in found if isinstance(tower, nn.Module)}.values())


class TowerOutputs:
    """What frozen towers gave for one batch, from one pass over it to the next, which takes it away."""

    def __init__(self) -> None:
        self._kept: dict[nn.Module, list[Any]] = {}

    def take(self, tower: nn.Module) -> list[Any]:
        return self._kept.pop(tower, [])

    def clear(self) -> None:
        """After the last pass: a reference model of its own has a tower that the policy never runs."""
        self._kept.clear()

    def keep(self, tower: nn.Module, output: Any) -> None:
        self._kept.setdefault(tower, []).append(output)


@contextmanager
def frozen_without_gradients(
    towers: list[nn.Module],
    outputs: TowerOutputs | None = None,
    *,
    again: bool = False,
) -> Iterator[None]:
    """While open, the forward of each tower without a trained weight builds no graph.

    `outputs`: of this batch: what is in there is not computed again; with `again`, another pass over the
    batch follows, and what is computed now is kept for it.
    """
    with ExitStack() as stack:
        for tower in towers:
            if any(parameter.requires_grad for parameter in tower.parameters()):
                continue
            forward = torch.no_grad()(tower.forward)
            if outputs is not None and _is_shareable(tower):
                forward = _once(forward, tower, outputs, again)
            stack.enter_context(_replaced(tower, forward))
            stack.enter_context(_packed_attention(tower))
        yield


@contextmanager
def _replaced(tower: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = tower.__dict__.get("forward")
    tower.forward = forward
    try:
        yield
    finally:
        if own is None:
            del tower.__dict__["forward"]
        else:
            tower.forward = own


def _once(
    forward: Callable[..., Any], tower: nn.Module, outputs: TowerOutputs, again: bool
) -> Callable[..., Any]:
    earlier = outputs.take(tower)

    def once(*args: Any, **kwargs: Any) -> Any:
        # Handed over, not held: the hidden states of all layers may be in there.
        found = earlier.pop(0) if earlier else forward(*args, **kwargs)
        if again:
            outputs.keep(tower, copy.copy(found))  # models write into the object that they are given
        return found

    return once


def _is_shareable(tower: nn.Module) -> bool:
    """Not where an adapter sits in it, which the reference goes without, or where dropout draws."""
    if tower not in _shareable:
        _shareable[tower] = not any(
            hasattr(module, "_disable_adapters")
            or (isinstance(module, nn.Dropout) and module.p > 0)
            or getattr(module, "attention_dropout", None)
            or getattr(module, "drop_prob", None)
            for module in tower.modules()
        )
    return _shareable[tower]


# --- attention of packed towers ----------------------------------------------------------------------------


def _attention(tower: nn.Module) -> str | None:
    return getattr(getattr(tower, "config", None), "_attn_implementation", None)


@contextmanager
def _packed_attention(tower: nn.Module) -> Iterator[None]:
    """While open, a tower that would attend window by window does so in one call, where a kernel can.

    Else each layer reads the windows' ends from the device. Layers look the attention up by name in each
    forward; nothing of a frozen tower is computed again later.
    """
    config: Any = getattr(tower, "config", None)
    weight = next((p for p in tower.parameters() if p.is_floating_point()), None)
    if type(tower).__name__ not in _PACKED or weight is None or _attention(tower) != "sdpa":
        yield
        return
    heads = int(getattr(config, "num_heads", 0))
    width = int(getattr(config, "embed_dim", None) or config.hidden_size) // max(heads, 1)
    if varlen.kernel_for(weight.device, _computed_in(weight), width) is None:
        yield
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS[_PACKED_ATTENTION] = _PackedAttention()
    config._attn_implementation = _PACKED_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def _computed_in(weight: Tensor) -> torch.dtype:
    # Autocast is mostly on inside the model's forward only, and cannot be seen from here.
    return torch.bfloat16 if weight.dtype == torch.float32 else weight.dtype


class _PackedAttention:
    """For one forward of a tower: where the pieces end is brought to the device, or read from it, once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Tensor, list[int]]] = {}

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        dropout: float = 0.0,
        scaling: float | None = None,
        cu_seq_lens_q: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """[1, S, H, D] of queries, keys and values [1, H, S, D], each piece over itself."""
        assert cu_seq_lens_q is not None
        ends, lengths = self._ends(cu_seq_lens_q, query.device)
        if torch.is_autocast_enabled(query.device.type):
            dtype = torch.get_autocast_dtype(query.device.type)
            query, key, value = (x.to(dtype) for x in (query, key, value))
        kernel = varlen.kernel_for(query.device, value.dtype, query.shape[-1])
        if kernel is None or query.dtype != value.dtype or dropout:
            return self._one_by_one(query, key, value, lengths, dropout, scaling), None
        longest = (max(lengths), max(lengths))
        problems = varlen.Problems(None, None, ends, ends, longest, causal=False)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        return kernel(q, k, v, problems, scale, None)[None], None

    def _ends(self, given: Tensor, device: torch.device) -> tuple[Tensor, list[int]]:
        if id(given) not in self._known:
            ends = given.to(device, torch.int32)
            self._known[id(given)] = (
                given,
                ends,
                given.diff().tolist(),
            )  # `given` held: its id stays its own
        return self._known[id(given)][1:]

    @staticmethod
    def _one_by_one(
        query: Tensor, key: Tensor, value: Tensor, lengths: list[int], dropout: float, scaling: float | None
    ) -> Tensor:
        parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        outs = [
            nn.functional.scaled_dot_product_attention(*part, dropout_p=dropout, scale=scaling)
            for part in parts
        ]
        return torch.cat(outs, dim=2).transpose(1, 2)
