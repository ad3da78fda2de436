"""Attention over rows `[prompt | chosen | rejected]`: the mask, and a stand-in for it that is never made.

Where torch's flash kernel runs, a `PrefixMask` goes through the model in the mask's place and the kernel
computes each pair as two causal problems (`varlen`); it holds no storage. What else asks for its values gets
the boolean mask, made then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from aspo_plugin.logprobs import varlen
from aspo_plugin.logprobs.architectures import Architecture
from aspo_plugin.logprobs.pair_layout import CHOSEN, PADDING, REJECTED, Layout
from aspo_plugin.logprobs.varlen import Kernel, Problems


def attention_masks(
    layout: Layout, architecture: Architecture, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """[B, 1, S, S] for the model, one or one per kind of layer.

    A `PrefixMask`; a boolean tensor (True sees) under `torch.compile`; an additive one of `dtype` for eager
    attention.
    """
    windows: dict[str, int | None] = {"full_attention": None}
    if "sliding_attention" in architecture.layers:
        windows["sliding_attention"] = architecture.window
    if architecture.additive or architecture.compiled:
        masks = {name: seen(layout, window) for name, window in windows.items()}
        if architecture.additive:
            masks = {name: _additive(mask, dtype) for name, mask in masks.items()}
    else:
        rows, size = layout.segment.shape
        problems = varlen.pair_problems(layout.pieces, rows * size, layout.segment.device)
        shared = {name: SharedPrefix(layout, problems, window) for name, window in windows.items()}
        masks = {name: PrefixMask(attention) for name, attention in shared.items()}
    if architecture.per_layer:
        return masks
    return masks["sliding_attention" if architecture.layers == {"sliding_attention"} else "full_attention"]


def seen(layout: Layout, window: int | None) -> Tensor:
    """[B, 1, S, S] boolean: which token (second to last axis) sees which; padding sees itself alone."""
    segment, device = layout.segment, layout.segment.device
    rows, size = segment.shape
    index = torch.arange(size, device=device)
    query, key = segment[:, :, None], segment[:, None, :]
    sees = (index[:, None] >= index[None, :]).expand(rows, size, size)
    runs = [(p.start + first, p.start + end) for p in layout.pieces for first, end in p.two_way]
    if runs:
        run = _numbered(runs, rows * size, device).view(rows, size)
        sees = sees | ((run[:, :, None] == run[:, None, :]) & (run > 0)[:, None, :])
    if rows < len(layout.pieces):
        pair = _numbered([(p.start, p.start + p.length) for p in layout.pieces], rows * size, device)
        sees = sees & (pair[None, :, None] == pair[None, None, :])
    sees = sees & ~((query == REJECTED) & (key == CHOSEN)) & (query != PADDING) & (key != PADDING)
    if window:
        sees = sees & (layout.ordinal[:, :, None] - layout.ordinal[:, None, :] < window)
    # A row of padding that sees nothing would be NaN, and NaN would reach the gradients.
    return (sees | ((index[:, None] == index[None, :]) & (query == PADDING)))[:, None]


def _numbered(spans: list[tuple[int, int]], tokens: int, device: torch.device) -> Tensor:
    """[tokens] long: 1, 2, ... in the spans, 0 outside."""
    numbers = torch.zeros(tokens, dtype=torch.long)
    for number, (first, end) in enumerate(spans, 1):
        numbers[first:end] = number
    return numbers.to(device)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # Eager attention adds its mask: a boolean one would be silently wrong.
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


@dataclass
class SharedPrefix:
    """What a `PrefixMask` stands for; `mask` is made when first asked for."""

    layout: Layout
    problems: list[Problems]
    window: int | None
    _mask: Tensor | None = field(default=None, repr=False)
    # Chosen once: a layer that is computed again in the backward pass must go the same way, whatever torch
    # was told in between, and asking the driver in each layer takes time.
    _kernels: dict[tuple[Any, ...], Kernel | None] = field(default_factory=dict, repr=False)
    _elsewhere: dict[torch.device, SharedPrefix] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.layout.segment.device

    def on(self, device: torch.device) -> SharedPrefix:
        """The same on another device, for the layers of a model that is spread over several; moved once."""
        if device == self.device:
            return self
        if device not in self._elsewhere:
            problems = [problem.to(device) for problem in self.problems]
            self._elsewhere[device] = SharedPrefix(self.layout.to(device), problems, self.window)
        return self._elsewhere[device]

    @property
    def mask(self) -> Tensor:
        if self._mask is None:
            self._mask = seen(self.layout, self.window)
        return self._mask

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """Attention [B, H, S, D] of queries [B, H, S, D] over keys and values [B, h, S, D], h dividing H."""
        if query.device != self.device:
            return self.on(query.device).attend(query, key, value, dropout, scale)
        kind = query.device.type
        if torch.is_autocast_enabled(kind):  # torch casts for its own function, which is not called here
            query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
        elif (
            query.dtype != value.dtype
        ):  # norms and rotations in float32, as FlashAttention's users have them
            query, key = query.to(value.dtype), key.to(value.dtype)
        whole = query.shape[-2] == key.shape[-2] == self.layout.segment.shape[1]
        fits = whole and not dropout and query.shape[-1] == value.shape[-1]
        kernel = self._kernel(query.device, query.dtype, query.shape[-1]) if fits else None
        if kernel is None:
            return self._attend_masked(query, key, value, dropout, scale)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        rows, _, size = query.shape[:3]
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))  # [B * S, heads, D]
        found: Tensor | None = None
        for part in self.problems:
            own = q if part.query is None else q.index_select(0, part.query)
            keys, values = (x.index_select(0, part.key) for x in (k, v))
            out = kernel(own.contiguous(), keys, values, part, scale, self.window)
            if part.query is not None:
                out = (q.new_zeros(q.shape) if found is None else found).index_copy(0, part.query, out)
            found = out
        assert found is not None
        return found.unflatten(0, (rows, size)).transpose(1, 2)

    def _kernel(self, *of: Any) -> Kernel | None:
        if of not in self._kernels:
            self._kernels[of] = varlen.kernel_for(*of)
        return self._kernels[of]

    def _attend_masked(
        self, query: Tensor, key: Tensor, value: Tensor, dropout: float, scale: float | None
    ) -> Tensor:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:  # with a mask, `enable_gqa` leaves the fast kernels
            key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        with _no_plan_per_length(query):
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=self.mask, dropout_p=dropout, scale=scale
            )


@contextmanager
def _no_plan_per_length(query: Tensor) -> Iterator[None]:
    """Without cuDNN's attention, which builds a plan for every new length; torch prefers it on Hopper."""
    if not query.is_cuda or not torch.backends.cuda.cudnn_sdp_enabled():
        yield
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)


class PrefixMask(Tensor):
    """Stands for a boolean mask [B, 1, S, S] that is made only where something asks for its values.

    `scaled_dot_product_attention` does not: a call with this as its `attn_mask` comes here, as with torch's
    own `CausalBias`. Detached, copied, moved or sliced as a whole it stays what it is.
    """

    attention: SharedPrefix

    @staticmethod
    def __new__(cls, attention: SharedPrefix) -> PrefixMask:
        rows, size = attention.layout.segment.shape
        shape, device = (rows, 1, size, size), attention.device
        self: PrefixMask = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        self.attention = attention
        return self

    def __init__(self, attention: SharedPrefix) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"PrefixMask({tuple(self.shape)})"

    def __deepcopy__(self, memo: Any) -> PrefixMask:
        return PrefixMask(self.attention)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            return _attend(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and isinstance(args[0], cls) and _stays(function, args, kwargs):
            device = _device(kwargs.get("device")) or args[0].device
            return cls(args[0].attention.on(device))
        args, kwargs = tree_map(lambda x: x.attention.mask if isinstance(x, cls) else x, (args, kwargs))
        return function(*args, **kwargs)


_COPIES = {
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.clone.default,
    torch.ops.aten.lift_fresh.default,
}


def _stays(function: Any, args: Any, kwargs: Any) -> bool:
    mask = args[0]
    if function in _COPIES:
        return True
    if function is torch.ops.aten.slice.Tensor:
        axis, start, end, step = tuple(args[1:]) + (0, None, None, 1)[len(args) - 1 :]
        return not start and (end is None or end >= mask.shape[axis]) and step == 1
    if function is torch.ops.aten._to_copy.default:
        return bool((kwargs.get("dtype") or mask.dtype) == mask.dtype)
    return False


def _device(given: Any) -> torch.device | None:
    """With its number: `cuda` is the current one."""
    if given is None:
        return None
    device = torch.device(given)
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: PrefixMask,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    return attn_mask.attention.attend(query, key, value, dropout_p, scale)


def route(name: str) -> None:
    """Let the attention that `transformers` calls `name` take a `PrefixMask`; anything else goes its own way.

    Without this `sdpa` repeats grouped keys and values before the call, and FlashAttention takes no mask at
    all. Stays for the process: gradient checkpointing computes a layer again during the backward pass.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS.get(name)
    if own is None or isinstance(own, _Routed):
        return
    ALL_ATTENTION_FUNCTIONS[name] = _Routed(own)


class _Routed:
    def __init__(self, own: Callable[..., Any]) -> None:
        functools.update_wrapper(self, own)
        self.own = own

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not isinstance(attention_mask, PrefixMask):
            return self.own(module, query, key, value, attention_mask, *args, **kwargs)
        return self._shared(attention_mask, query, key, value, *args, **kwargs), None

    @staticmethod
    def _shared(
        mask: PrefixMask,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        dropout: float = 0.0,
        scaling: float | None = None,
        *_: Any,
        **__: Any,
    ) -> Tensor:
        out = mask.attention.attend(query, key, value, dropout, scaling)
        return out.transpose(1, 2).contiguous()
