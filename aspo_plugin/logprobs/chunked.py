"""Log-probs of target tokens from hidden states, a chunk of rows at a time: logits are never kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**25
"""Logits held at a time: 128 MiB in float32, so 1,024 rows of a 32k vocabulary, 220 of 152k."""


def chunk_rows(vocabulary: int) -> int:
    return max(16, CHUNK_ELEMENTS // vocabulary)


def gather_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """`log softmax(logits)[targets]` in float32: [N] of [N, V] and [N]."""
    logits, targets = logits.float(), targets.to(logits.device)
    return logits.gather(-1, targets[:, None])[:, 0] - logits.logsumexp(-1)


def linear_logps(head: nn.Linear, hidden: Tensor, targets: Tensor) -> Tensor:
    """`gather_logps(head(hidden), targets)`: [N] of [N, H] and [N], differentiable once."""
    dtype = None
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    keep = torch.is_grad_enabled()
    return _LinearLogProbs.apply(hidden, head.weight, head.bias, targets, dtype, keep)


def module_logps(
    forward: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, vocabulary: int
) -> Tensor:
    """The same for any head (LoRA, quantised, with a function after it), through its own forward."""
    size = chunk_rows(vocabulary)

    def piece(rows: Tensor, wanted: Tensor) -> Tensor:
        return gather_logps(forward(rows.unsqueeze(0))[0], wanted)

    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([piece(rows, wanted) for rows, wanted in pieces])
    return torch.cat([checkpoint(piece, rows, wanted, use_reentrant=False) for rows, wanted in pieces])


class _LinearLogProbs(torch.autograd.Function):
    """Two ways back. A frozen head: d logp / d hidden is complete in the forward, one [N, H] tensor, and
    the backward only scales it. A trained head: its gradient needs the incoming one, so the chunks are
    computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype | None,
        keep: bool,
    ) -> Tensor:
        dtype = dtype or hidden.dtype
        ctx.trains_head = keep and (weight.requires_grad or (bias is not None and bias.requires_grad))
        ctx.dtype = dtype
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(dtype)
            logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
            frozen = keep and ctx.needs_input_grad[0] and not ctx.trains_head
            slope = torch.empty_like(hidden) if frozen else None
            for rows in _slices(len(hidden), len(weight)):
                logits = _logits(hidden[rows], cast, bias, dtype)
                wanted = targets[rows, None]
                total = logits.logsumexp(-1, keepdim=True)
                logps[rows] = (logits.gather(-1, wanted) - total)[:, 0]
                if slope is not None:
                    # One minus a confident token's probability must not be rounded before it is taken.
                    steps = logits.sub_(total).exp_().neg_()
                    steps.scatter_add_(1, wanted, torch.ones_like(total))
                    slope[rows] = (steps.to(dtype) @ cast).to(slope.dtype)
        if ctx.trains_head:
            ctx.save_for_backward(hidden, weight, bias, targets)
        else:
            ctx.save_for_backward(slope)
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.trains_head:
            (slope,) = ctx.saved_tensors
            return (slope * gradient[:, None]).to(slope.dtype), None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        dtype = ctx.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(dtype)
            to_hidden = torch.empty_like(hidden)
            to_weight = torch.zeros_like(cast)
            to_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
            for rows in _slices(len(hidden), len(weight)):
                inputs = hidden[rows].to(dtype)
                logits = _logits(inputs, cast, bias, dtype)
                slope = logits.sub_(logits.logsumexp(-1, keepdim=True)).exp_().neg_()
                slope.scatter_add_(1, targets[rows, None], torch.ones_like(slope[:, :1]))
                slope.mul_(gradient[rows, None])
                if to_bias is not None:
                    to_bias += slope.sum(0)
                slope = slope.to(dtype)
                to_hidden[rows] = (slope @ cast).to(to_hidden.dtype)
                to_weight.addmm_(slope.T, inputs)
        to_weight = to_weight.to(weight.dtype)
        return to_hidden, to_weight, None if to_bias is None else to_bias.to(bias.dtype), None, None, None


def _slices(rows: int, vocabulary: int) -> list[slice]:
    size = chunk_rows(vocabulary)
    return [slice(start, start + size) for start in range(0, rows, size)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Rounded to `dtype` as the model's own logits are, then float32, in memory of their own."""
    logits = F.linear(hidden.to(dtype), weight, None if bias is None else bias.to(dtype))
    return logits.float() if logits.dtype != torch.float32 else logits
