"""Where each token of a batch of pairs goes when a pair is one row, `[prompt | chosen | rejected]`.

Rows stand one below the other with padding (`[B, S]`), or one behind the other without (`[1, sum of
lengths]`). The rejected response cannot see the chosen one and its positions go on from the prompt, so both
have the log-probs they have alone; image and prompt pass through the model once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aspo_plugin.logprobs.output_layer import Rows

PROMPT, CHOSEN, REJECTED, PADDING = range(4)


@dataclass(frozen=True)
class Piece:
    """One pair in the flattened rows: its first token, and the tokens of its three parts.

    `two_way`: [first, end) of the runs of prompt tokens that see each other both ways, from the pair's start.
    """

    start: int
    prompt: int
    chosen: int
    rejected: int
    two_way: tuple[tuple[int, int], ...] = ()

    @property
    def length(self) -> int:
        return self.prompt + self.chosen + self.rejected


@dataclass
class Plan:
    """A layout on the host; arrays of int64. B pairs of ordinary rows [L] become rows [B', S].

    `source` [B', S]: into the flattened [2B, L] of the ordinary rows. `segment` [B', S]: PROMPT, CHOSEN,
    REJECTED or PADDING. `ordinal` [B', S]: place of the token in its ordinary row. `predictor` [N]: into the
    flattened [B', S], the token that predicts response token n. `place` [N]: into the flattened [2B, L], that
    response token. `pieces`: the pairs, in order.
    """

    source: np.ndarray
    segment: np.ndarray
    ordinal: np.ndarray
    predictor: np.ndarray
    place: np.ndarray
    pieces: list[Piece]


@dataclass
class Layout:
    """A `Plan` on the device, all tensors long; `pieces` stay on the host."""

    source: Tensor
    segment: Tensor
    ordinal: Tensor
    predictor: Tensor
    place: Tensor
    pieces: list[Piece] = field(default_factory=list)

    def to(self, device: torch.device) -> Layout:
        tensors = ("source", "segment", "ordinal", "predictor", "place")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def rows(self, input_ids: Tensor) -> Rows:
        shape = (self.source.shape[0], self.source.shape[1])
        return Rows(self.predictor, input_ids.flatten()[self.place], shape)


def ordinary_rows(response_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictor and place, as in `Plan`, when the rows stay as they are.

    Raises `ValueError` for a row without response, or whose response has no token before it.
    """
    place = np.flatnonzero(response_mask)
    if (place % response_mask.shape[1] == 0).any():
        raise ValueError("a response begins at a row's first token, which nothing predicts")
    if not response_mask.any(1).all():
        row = int(np.flatnonzero(~response_mask.any(1))[0])
        raise ValueError(
            f"row {row} of the batch has no response token: a preference pair needs two responses"
        )
    return place - 1, place


def plan(
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    response_mask: np.ndarray,
    *,
    two_way: np.ndarray | None = None,
    packed: bool = False,
    multiple: int = 1,
) -> Plan | str:
    """The plan for rows `[chosen..., rejected...]` of [2B, L], or why there is none.

    `two_way` [2B, L]: tokens whose runs, as far as they are of the prompt, see each other both ways.
    `packed`: one row without padding; else the length of the rows is rounded up to `multiple`.
    """
    pairs, length = len(input_ids) // 2, input_ids.shape[1]
    if len(input_ids) % 2:
        return "the batch is not made of pairs"
    if (response_mask & ~attention_mask).any():
        return "a response token is not attended to"
    columns: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for pair in range(pairs):
        seen = [np.flatnonzero(attention_mask[row]) for row in (pair, pair + pairs)]
        starts = [int(response_mask[row].argmax()) for row in (pair, pair + pairs)]
        chosen_prompt, rejected_prompt = (c[c < s] for c, s in zip(seen, starts, strict=True))
        if not np.array_equal(input_ids[pair, chosen_prompt], input_ids[pair + pairs, rejected_prompt]):
            return "the prompt tokens of chosen and rejected differ"
        if not len(chosen_prompt):
            return "a pair has no prompt"
        chosen, rejected = (c[c >= s] for c, s in zip(seen, starts, strict=True))
        columns.append((chosen_prompt, chosen, rejected))
    lengths = [sum(map(len, parts)) for parts in columns]
    if packed:
        shape = (1, sum(lengths))
        starts = [0, *np.cumsum(lengths)[:-1].tolist()]
    else:
        size = -(-max(lengths) // multiple) * multiple
        shape = (pairs, size)
        starts = [pair * size for pair in range(pairs)]

    source, ordinal = (np.zeros(shape[0] * shape[1], dtype=np.int64) for _ in range(2))
    segment = np.full(source.shape, PADDING, dtype=np.int64)
    predictor = np.full(input_ids.size, -1, dtype=np.int64)
    pieces = []
    for pair, (prompt, chosen, rejected) in enumerate(columns):
        runs = () if two_way is None else _runs(two_way[pair, prompt])
        piece = Piece(starts[pair], len(prompt), len(chosen), len(rejected), runs)
        pieces.append(piece)
        at, end, shared = piece.start, piece.start + piece.length, piece.prompt
        last = shared + piece.chosen
        flat = np.concatenate(
            [pair * length + prompt, pair * length + chosen, (pair + pairs) * length + rejected]
        )
        source[at:end] = flat
        segment[at:end] = np.repeat([PROMPT, CHOSEN, REJECTED], [shared, piece.chosen, piece.rejected])
        ordinal[at:end] = [*range(last), *range(shared, shared + piece.rejected)]
        before = np.arange(at, end) - 1
        before[last : last + 1] = at + shared - 1
        predictor[flat] = before
        if not packed:  # a text token: padding must not look like a place for an image
            source[end : starts[pair] + shape[1]] = flat[-1]
    place = np.flatnonzero(response_mask)
    return Plan(
        source.reshape(shape),
        segment.reshape(shape),
        ordinal.reshape(shape),
        predictor[place],
        place,
        pieces,
    )


def _runs(marked: np.ndarray) -> tuple[tuple[int, int], ...]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(np.int8), [0]])))
    return tuple(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def to_layout(made: Plan, device: torch.device) -> Layout:
    """The plan on `device`, in one copy."""
    arrays = (made.source, made.segment, made.ordinal, made.predictor, made.place)
    source, segment, ordinal, predictor, place = to_device(arrays, device)
    return Layout(source, segment, ordinal, predictor, place, made.pieces)


def to_device(arrays: tuple[np.ndarray, ...], device: Any) -> list[Tensor]:
    """Arrays of int64 as tensors on `device`, in one copy that does not wait for the device."""
    joined = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        joined = joined.pin_memory()
    parts = joined.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
