"""Does the fast path give the model's own log-probs? Measured on the first batch, against real noise."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NOISE_FACTOR = 4.0
ROUNDING_FACTOR = 4.0
PADDING = 8
TENSOR_FLOAT_32 = 2.0**-11


class SelfCheckError(RuntimeError):
    """The fast path and the plain path disagree: training on it would be wrong."""


@dataclass(frozen=True)
class Verdict:
    """Root mean squares over the response tokens, in nats."""

    difference: float
    noise: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit

    def __str__(self) -> str:
        return (
            f"difference {self.difference:.2e} per token, the plain path's own noise {self.noise:.2e}, "
            f"limit {self.limit:.2e}"
        )


def judge(fast: Tensor, plain: Tensor, padded: Tensor, precision: torch.dtype) -> Verdict:
    """Compare log-probs [N] of the fast and the plain path, the latter also under other padding.

    `precision` is what the model computes in; float32 on a GPU is TensorFloat-32 where torch takes that for
    convolutions, as it does unless told otherwise. The limit is a small multiple of the plain path's own
    noise, plus a few units of rounding for the case that padding happens to change nothing.
    """
    rms = [float(x.float().square().mean().sqrt()) for x in (fast - plain, padded - plain, plain)]
    difference, noise, size = rms
    rounding = torch.finfo(precision).eps
    if precision == torch.float32 and fast.device.type == "cuda":
        rounding = max(rounding, TENSOR_FLOAT_32)
    limit = NOISE_FACTOR * noise + ROUNDING_FACTOR * rounding * max(1.0, size)
    return Verdict(difference, noise, limit)


def more_padding(inputs: dict[str, Tensor], length: int, per_token: Collection[str]) -> dict[str, Tensor]:
    """The same rows with `PADDING` more tokens at the end that nothing attends to.

    `per_token` names the inputs with an entry for each token.
    """

    def longer(key: str, value: Tensor) -> Tensor:
        if key == "cross_attention_mask":
            return F.pad(value, (0, 0, 0, 0, 0, PADDING))
        if key == "position_ids" or value.shape[1:] == (length,):
            return F.pad(value, (0, PADDING))
        return value

    return {
        key: longer(key, value) if key in per_token and torch.is_tensor(value) else value
        for key, value in inputs.items()
    }


def weight_dtype(model: nn.Module) -> torch.dtype:
    """Of the first floating-point weight; float32 where there is none."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def distributed() -> bool:
    """Whether this process is one of several ranks."""
    return bool(torch.distributed.is_available() and torch.distributed.is_initialized())


def any_rank(flag: bool, device: torch.device) -> bool:
    """True where `flag` is true on any rank: ranks of a sharded model must run the same forwards."""
    return bool(most_of_ranks(int(flag), device))


def most_of_ranks(value: int, device: torch.device) -> int:
    """The largest of all ranks' values."""
    if not distributed():
        return value
    votes = torch.tensor(value, device=device)
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return int(votes)
