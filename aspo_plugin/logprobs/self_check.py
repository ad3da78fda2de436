"""Does the fast path give the model's own log-probs? Measured on the first batch, against real noise."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aspo_plugin.logprobs.output_layer import unwrap

# Of root mean squares over the tokens: for many of them, and what is added, divided by the root of their
# number, since few tokens give either by chance. `python -m benchmarks.self_check` measures what they leave.
NOISE_FACTOR, FEW_TOKENS = 2.0, 8.0
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
            f"difference {self.difference:.2e} per token, the plain path's own rounding {self.noise:.2e}, "
            f"limit {self.limit:.2e}"
        )


def judge(fast: Tensor, plain: Tensor, nudged: Tensor, precision: torch.dtype) -> Verdict:
    """Compare log-probs [N] of the fast and the plain path, the latter also of inputs moved by rounding.

    The limit is a small multiple of what that (`nudge`) does to the plain path, at least a few units of
    rounding. `precision` is what the model computes in.
    """
    difference, noise, size = (
        float(x.float().square().mean().sqrt()) for x in (fast - plain, nudged - plain, plain)
    )
    of_noise = NOISE_FACTOR + FEW_TOKENS * max(1, len(plain)) ** -0.5
    least = ROUNDING_FACTOR * rounding(precision, fast.device) * max(1.0, size)
    return Verdict(difference, noise, max(of_noise * noise, least))


def rounding(precision: torch.dtype, device: torch.device) -> float:
    """A unit of it; float32 on a GPU is TensorFloat-32 where torch takes that, as for convolutions."""
    unit = float(torch.finfo(precision).eps)
    return max(unit, TENSOR_FLOAT_32) if precision == torch.float32 and device.type == "cuda" else unit


@contextmanager
def nudge(model: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """While open, embeddings of tokens are off by up to a unit of rounding, as if by chance.

    All that follows is then rounded anew, as it is between two ways to compute the same: only more padding
    often changes no bit, and then says nothing of the noise.
    """
    base: Any = unwrap(model)
    embedding = base.get_input_embeddings()
    own, forward = embedding.__dict__.get("forward"), embedding.forward

    @torch.compiler.disable  # which knows no generator, and there is nothing to gain for one forward
    def nudged(*args: Any, **kwargs: Any) -> Any:
        found = forward(*args, **kwargs)
        random = torch.Generator(found.device).manual_seed(0)
        by = torch.rand(found.shape, generator=random, device=found.device) * 2 - 1
        return (found.float() * (1 + rounding(precision, found.device) * by)).to(found.dtype)

    embedding.forward = nudged
    try:
        yield
    finally:
        if own is None:
            del embedding.__dict__["forward"]
        else:
            embedding.forward = own


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
    return most_of_each([value], device)[0]


def most_of_each(values: list[int], device: torch.device) -> list[int]:
    """The largest of all ranks' values at each place, by one collective."""
    if not distributed():
        return values
    votes = torch.tensor(values, device=device)
    torch.distributed.all_reduce(votes, op=torch.distributed.ReduceOp.MAX)
    return [int(value) for value in votes.tolist()]
