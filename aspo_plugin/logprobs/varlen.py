"""Attention of many problems of different lengths in one call of torch's own flash kernel.

A problem is a run of queries over a run of keys that ends where the queries end ("aligned at the lower
right"), causal or not, with a sliding window or without. Needs no flash-attn package, only a GPU from Ampere
on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aspo_plugin.logprobs.pair_layout import Piece, to_device


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
    able = torch.cuda.get_device_capability(device) >= (8, 0)
    return flash if able and torch.backends.cuda.flash_sdp_enabled() else None


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
