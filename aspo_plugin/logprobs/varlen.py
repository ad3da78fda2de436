"""Attention of many problems of different lengths in one call of torch's own flash kernel.

A problem is a run of queries over a run of keys that ends where the queries end ("aligned at the lower
right"), causal or not, with a sliding window or without. Needs no flash-attn package, only a GPU from Ampere
on.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aspo_plugin.logprobs.pair_layout import Piece, to_device

logger = logging.getLogger(__name__)


@dataclass
class Problems:
    """The problems of one call.

    `query` [Nq] and `key` [Nk] (None: every token, in order): places of the problems' tokens in the flattened
    rows. `query_ends`, `key_ends`: int32, [number + 1], their borders there, from 0. `longest`: of the
    queries and of the keys of one problem. `causal`: a query sees the keys up to itself, else all of its
    problem's (in a window: none before it).
    """

    query: Tensor | None
    key: Tensor | None
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]
    causal: bool

    def to(self, device: torch.device) -> Problems:
        tensors = ("query", "key", "query_ends", "key_ends")
        moved = {name: getattr(self, name) for name in tensors if getattr(self, name) is not None}
        return replace(self, **{name: value.to(device) for name, value in moved.items()})


Kernel = Callable[[Tensor, Tensor, Tensor, Problems, float, "int | None"], Tensor]
"""(query [Nq, H, D], key [Nk, h, D], value [Nk, h, D], problems, scale, window) -> [Nq, H, D].

h divides H: grouped heads. `window`: keys that a query sees up to itself, itself included, or None.
"""


def kernel_for(device: torch.device, dtype: torch.dtype, head_size: int) -> Kernel | None:
    """The kernel that computes `Problems` there, or None where there is none."""
    if device.type != "cuda" or torch.version.hip is not None or not torch.cuda.is_available():
        return None
    if dtype not in (torch.float16, torch.bfloat16) or head_size > 256 or head_size % 8:
        return None
    if torch.cuda.get_device_capability(device) < (8, 0) or not torch.backends.cuda.flash_sdp_enabled():
        return None
    return flash if trusted(flash, device, dtype, head_size) else None


@functools.cache
def trusted(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Whether `kernel` runs there and gives attention and its gradients; tried once on a small example.

    The kernel is a private operator of torch: where a build of it fails or differs, the log says so and the
    dense mask takes its place, in place of a run that stops or learns from wrong numbers.
    """
    try:
        worst = _error_of(kernel, device, dtype, head_size)
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel
    except Exception as error:  # whatever a build of torch makes it raise, there is the other way
        reason = f"it fails ({type(error).__name__}: {error})"
    else:
        if worst <= _TRIAL_TOLERANCE:
            return True
        reason = f"it differs from attention in float32 by {worst:.1e} of its norm"
    logger.warning("torch's flash kernel is not used for shared prefixes on %s: %s", device, reason)
    return False


# Half precision gives up to 0.08 where scores are rounded too; a wrong mask, scale or gradient more than 0.5.
_TRIAL_TOLERANCE = 0.2


def _error_of(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """Largest distance from attention by its definition, relative to its norm; NaN is infinite.

    Of the output and of three gradients, for two problems of different lengths with grouped heads: causal,
    in a window, and neither.
    """
    lengths = ((5, 5), (9, 21))
    queries, keys = (sum(side) for side in zip(*lengths, strict=True))
    query_ends, key_ends = torch.tensor([[0, 5, queries], [0, 5, keys]], dtype=torch.int32, device=device)
    shapes = ((queries, 4, head_size), (keys, 2, head_size), (keys, 2, head_size), (queries, 4, head_size))
    errors = []
    with torch.enable_grad(), torch.autocast(device.type, enabled=False), _kept_as_it_is():
        given = [_wave(shape, number, device).to(dtype) for number, shape in enumerate(shapes)]
        for causal, window in ((True, None), (True, 4), (False, None)):
            problems = Problems(None, None, query_ends, key_ends, (9, 21), causal)
            results = []
            for kind, way in ((dtype, kernel), (torch.float32, _by_definition)):
                tensors = [x.to(kind).requires_grad_() for x in given[:3]]
                out = way(tensors[0], tensors[1], tensors[2], problems, head_size**-0.5, window)
                results.append([out, *torch.autograd.grad(out, tensors, given[3].to(kind))])
            pairs = [(a.detach().float(), b.detach()) for a, b in zip(*results, strict=True)]
            errors += [(a - b).norm() / b.norm() for a, b in pairs]
    worst = float(torch.stack(errors).max())  # NaN where one of them is
    return worst if worst == worst else float("inf")


def _kept_as_it_is() -> Any:
    """For what a backward needs: a checkpointed layer around it would count that, and compute it again."""
    return torch.autograd.graph.saved_tensors_hooks(lambda kept: kept, lambda kept: kept)


def _wave(shape: tuple[int, ...], number: int, device: torch.device) -> Tensor:
    """Values between -1 and 1 that draw nothing from a generator."""
    count = torch.arange(int(np.prod(shape)), dtype=torch.float32, device=device)
    return torch.sin(count * (1.7 + 0.31 * number) + number).view(shape)


def _by_definition(
    query: Tensor, key: Tensor, value: Tensor, problems: Problems, scale: float, window: int | None
) -> Tensor:
    """A `Kernel` in plain tensor arithmetic, one problem after the other."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    query_ends, key_ends = problems.query_ends.tolist(), problems.key_ends.tolist()
    parts = []
    for n in range(len(query_ends) - 1):
        own = slice(query_ends[n], query_ends[n + 1])
        seen = slice(key_ends[n], key_ends[n + 1])
        many, most = own.stop - own.start, seen.stop - seen.start
        distance = torch.arange(most - many, most)[:, None] - torch.arange(most)[None, :]
        hidden = torch.zeros(many, most, dtype=torch.bool)
        if problems.causal:
            hidden |= distance < 0
        if window is not None:
            hidden |= distance >= window
        scores = torch.einsum("qhd,khd->hqk", query[own], key[seen]) * scale
        weights = scores.masked_fill(hidden.to(query.device), float("-inf")).softmax(dim=-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, value[seen]))
    return torch.cat(parts)


def flash(
    query: Tensor, key: Tensor, value: Tensor, problems: Problems, scale: float, window: int | None
) -> Tensor:
    """A `Kernel`: `scaled_dot_product_attention`'s flash kernel in its form for variable lengths."""
    to_right = 0 if window is not None and problems.causal else None
    return torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        problems.query_ends,
        problems.key_ends,
        *problems.longest,
        0.0,
        problems.causal,
        False,
        scale=scale,
        window_size_left=None if window is None else window - 1,
        window_size_right=to_right,
    )[0]


def pair_problems(pieces: list[Piece], tokens: int, device: torch.device) -> list[Problems]:
    """Of pairs in rows of `tokens` together: the causal problems, and those that see both ways if there are.

    A pair is two causal problems: prompt and chosen response over themselves, the rejected response over the
    prompt and itself. A two-way run of the prompt cuts the first: up to the run, the run, and what follows.
    """
    found: dict[bool, list[tuple[np.ndarray, np.ndarray]]] = {True: [], False: []}
    for piece in pieces:
        own = piece.start + np.arange(piece.length)
        last, at = piece.prompt + piece.chosen, 0
        for first, end in piece.two_way:
            if first > at:
                found[True].append((own[at:first], own[:first]))
            found[False].append((own[first:end], own[:end]))
            at = end
        found[True].append((own[at:last], own[:last]))
        after = own[last:]
        found[True].append((after, np.concatenate([own[: piece.prompt], after])))
    return [_problems(pairs, tokens, device, causal) for causal, pairs in found.items() if pairs]


def _problems(
    pairs: list[tuple[np.ndarray, np.ndarray]], tokens: int, device: torch.device, causal: bool
) -> Problems:
    queries, keys = (np.concatenate(side) for side in zip(*pairs, strict=True))
    lengths = [[len(part) for part in side] for side in zip(*pairs, strict=True)]
    ends = [np.cumsum([0, *side]) for side in lengths]
    whole = len(queries) == tokens and bool((queries == np.arange(tokens)).all())
    query, key, query_ends, key_ends = to_device(
        (queries[: 0 if whole else None], keys, ends[0], ends[1]), device
    )
    longest = (max(lengths[0]), max(lengths[1]))
    return Problems(None if whole else query, key, query_ends.int(), key_ends.int(), longest, causal)
