"""One row per pair, [prompt | chosen | rejected | padding], in place of two rows that repeat the prompt.

The rejected response cannot see the chosen one and its positions go on from the prompt, so both have the
log-probs they have alone; image and prompt pass through the model once.

For collators: a batch whose rejected rows have the same images as its chosen rows may carry the chosen
rows' image tensors alone, marked by `batch[IMAGES_ONCE] = True`. `images_once` makes such a batch of an
ordinary one; a collator that processes the chosen rows' images only and sets the mark saves that work
too. `ResponseLogProbs` takes both kinds of batch, and repeats the images where it needs ordinary rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aspo_plugin.logprobs.architectures import Architecture
from aspo_plugin.logprobs.output_layer import Rows, unwrap

IMAGES_ONCE = "aspo_images_once"
# On a batch without images that carries one nobody attends to: every process of a sharded model then runs the
# vision tower. Its tokens stand unattended behind the first row, so such a batch stays as it is.
PLACEHOLDER = "aspo_placeholder_image"

TOKEN_INPUTS = frozenset(
    "input_ids attention_mask token_type_ids mm_token_type_ids cross_attention_mask position_ids".split()
)
IMAGE_INPUTS = frozenset(
    "pixel_values pixel_attention_mask image_grid_thw image_sizes aspect_ratio_ids aspect_ratio_mask "
    "qformer_input_ids qformer_attention_mask batch_num_images num_crops pixel_values_videos video_grid_thw "
    "second_per_grid_ts".split()
)
# Made for generation after a prompt; a training forward does not read them.
UNUSED_INPUTS = frozenset({"rope_deltas"})

PROMPT, CHOSEN, REJECTED, PADDING = range(4)


def images_once(batch: dict[str, Any]) -> dict[str, Any]:
    """Keep the chosen rows' images alone where the rejected rows' are equal, else the batch as it is."""
    keys = [key for key in batch if key in IMAGE_INPUTS]
    if not keys or IMAGES_ONCE in batch or not all(_twice(batch[key]) for key in keys):
        return batch
    halves = {key: batch[key][: len(batch[key]) // 2] for key in keys}
    return {**batch, **halves, IMAGES_ONCE: True}


def images_twice(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The ordinary batch, every row with its own images: what a model takes without a shared prefix."""
    rest = {key: value for key, value in batch.items() if key not in (IMAGES_ONCE, PLACEHOLDER)}
    if not batch.get(IMAGES_ONCE):
        return rest
    return {key: _repeated(value) if key in IMAGE_INPUTS else value for key, value in rest.items()}


def _repeated(value: Any) -> Any:
    return torch.cat([value, value]) if torch.is_tensor(value) else [*value, *value]


def _twice(value: Any) -> bool:
    if not torch.is_tensor(value) or len(value) % 2:
        return False
    half = len(value) // 2
    return torch.equal(value[:half], value[half:])


@dataclass
class Layout:
    """Where everything of a batch of pairs goes; all tensors long, B pairs of rows [L] become rows [S].

    `source` [B, S]: into the flattened [2B, L] of the ordinary rows. `segment` [B, S]: PROMPT, CHOSEN,
    REJECTED or PADDING. `ordinal` [B, S]: place of the token in its ordinary row.
    `predictor` [N]: into the flattened [B, S], the token that predicts response token n.
    `place` [N]: into the flattened [2B, L], that response token.
    """

    source: Tensor
    segment: Tensor
    ordinal: Tensor
    predictor: Tensor
    place: Tensor

    def rows(self, input_ids: Tensor) -> Rows:
        shape = (self.source.shape[0], self.source.shape[1])
        return Rows(self.predictor, input_ids.flatten()[self.place], shape)


def ordinary_rows(response_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictor and place, as in `Layout`, when the rows stay as they are."""
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
    input_ids: np.ndarray, attention_mask: np.ndarray, response_mask: np.ndarray, multiple: int = 1
) -> dict[str, np.ndarray] | str:
    """The arrays of a `Layout` for rows `[chosen..., rejected...]` of [2B, L], or why there is none.

    `multiple`: the length of the new rows is rounded up to it.
    """
    pairs, length = len(input_ids) // 2, input_ids.shape[1]
    if len(input_ids) % 2:
        return "the batch is not made of pairs"
    if (response_mask & ~attention_mask).any():
        return "a response token is not attended to"
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for pair in range(pairs):
        columns = [np.flatnonzero(attention_mask[row]) for row in (pair, pair + pairs)]
        starts = [int(response_mask[row].argmax()) for row in (pair, pair + pairs)]
        chosen_prompt, rejected_prompt = (c[c < s] for c, s in zip(columns, starts, strict=True))
        if not np.array_equal(input_ids[pair, chosen_prompt], input_ids[pair + pairs, rejected_prompt]):
            return "the prompt tokens of chosen and rejected differ"
        if not len(chosen_prompt):
            return "a pair has no prompt"
        chosen, rejected = (c[c >= s] for c, s in zip(columns, starts, strict=True))
        rows.append((chosen_prompt, chosen, rejected))
    size = max(sum(map(len, row)) for row in rows)
    size = -(-size // multiple) * multiple

    source = np.zeros((pairs, size), dtype=np.int64)
    segment = np.full((pairs, size), PADDING, dtype=np.int64)
    ordinal = np.zeros((pairs, size), dtype=np.int64)
    predictor = np.full(input_ids.size, -1, dtype=np.int64)
    for pair, (prompt, chosen, rejected) in enumerate(rows):
        shared, end = len(prompt), len(prompt) + len(chosen) + len(rejected)
        flat = np.concatenate(
            [pair * length + prompt, pair * length + chosen, (pair + pairs) * length + rejected]
        )
        source[pair, :end] = flat
        source[pair, end:] = flat[-1]  # a text token: padding must not look like a place for an image
        segment[pair, :end] = np.repeat([PROMPT, CHOSEN, REJECTED], [shared, len(chosen), len(rejected)])
        ordinal[pair, : shared + len(chosen)] = np.arange(shared + len(chosen))
        ordinal[pair, shared + len(chosen) : end] = shared + np.arange(len(rejected))
        before = np.arange(end) - 1
        before[shared + len(chosen) : shared + len(chosen) + 1] = shared - 1
        predictor[flat] = pair * size + before
    place = np.flatnonzero(response_mask)
    return {
        "source": source,
        "segment": segment,
        "ordinal": ordinal,
        "predictor": predictor[place],
        "place": place,
    }


def to_layout(arrays: dict[str, np.ndarray], device: torch.device) -> Layout:
    """The planned arrays on `device`, in one copy."""
    names = ("source", "segment", "ordinal", "predictor", "place")
    packed = torch.from_numpy(np.concatenate([arrays[name].ravel() for name in names])).to(device)
    parts = packed.split([arrays[name].size for name in names])
    tensors = {name: part.view(arrays[name].shape) for name, part in zip(names, parts, strict=True)}
    return Layout(**tensors)


def unfit(inputs: Mapping[str, Any], architecture: Architecture, longest: int) -> str:
    """Why these inputs must stay ordinary rows, or ""; `longest` is the longest of them."""
    if PLACEHOLDER in inputs:
        return "a placeholder image stands in a batch without images"
    unknown = [
        key for key in inputs if key not in TOKEN_INPUTS | IMAGE_INPUTS | UNUSED_INPUTS | {IMAGES_ONCE}
    ]
    if unknown:
        return f"the model input {', '.join(sorted(unknown))} is not known here"
    mixed = len(architecture.layers) > 1 and not architecture.per_layer
    if architecture.window and mixed and longest > architecture.window:
        return "a row is longer than the attention window of a model that takes one mask for all layers"
    if architecture.counts_images and inputs.get("position_ids") is None and _grids(inputs):
        if inputs.get("mm_token_type_ids") is None:
            return "mm_token_type_ids, from which the positions of image tokens follow, are missing"
    if architecture.two_way and "token_type_ids" not in inputs:
        return "token_type_ids, which say which tokens see each other both ways, are missing"
    return ""


def shared_inputs(
    model: nn.Module, inputs: Mapping[str, Any], layout: Layout, architecture: Architecture
) -> dict[str, Any]:
    """What `model(**...)` takes in place of `inputs`, whose images are there once (`images_once`)."""
    positions = _positions(model, inputs, layout, architecture)
    laid: dict[str, Any] = {}
    for key, value in inputs.items():
        if key in IMAGE_INPUTS:
            laid[key] = value
        elif key in TOKEN_INPUTS and key not in ("attention_mask", "position_ids"):
            laid[key] = value.flatten(0, 1)[layout.source]
    types = laid.get("token_type_ids")
    masks = attention_masks(layout, architecture, types, unwrap(model).dtype)
    return {**laid, "attention_mask": masks, "position_ids": positions}


def attention_masks(
    layout: Layout, architecture: Architecture, types: Tensor | None, dtype: torch.dtype
) -> Tensor | dict[str, Tensor]:
    """[B, 1, S, S] for the model: boolean (True sees) or additive, one or one per kind of layer."""
    segment, size = layout.segment, layout.segment.shape[1]
    index = torch.arange(size, device=segment.device)
    query, key = segment[:, :, None], segment[:, None, :]
    sees = index[:, None] >= index[None, :]
    if architecture.two_way:
        assert types is not None
        groups = torch.where(segment == PROMPT, _two_way_groups(types, architecture.two_way), -1)
        sees = sees | ((groups[:, :, None] == groups[:, None, :]) & (groups >= 0)[:, None, :])
    sees = sees & ~((query == REJECTED) & (key == CHOSEN)) & (query != PADDING) & (key != PADDING)
    # A row of padding that sees nothing would be NaN, and NaN would reach the gradients.
    itself = (index[:, None] == index[None, :]) & (query == PADDING)
    full = sees | itself
    masks = {"full_attention": full}
    if "sliding_attention" in architecture.layers:
        masks["sliding_attention"] = full
        if architecture.window:
            distance = layout.ordinal[:, :, None] - layout.ordinal[:, None, :]
            masks["sliding_attention"] = (sees & (distance < architecture.window)) | itself
    prepared = {name: _as_taken(mask, architecture, dtype) for name, mask in masks.items()}
    if architecture.per_layer:
        return prepared
    only_sliding = architecture.layers == {"sliding_attention"}
    return prepared["sliding_attention" if only_sliding else "full_attention"]


def _as_taken(mask: Tensor, architecture: Architecture, dtype: torch.dtype) -> Tensor:
    mask = mask[:, None]
    if not architecture.additive:
        return mask
    # Eager attention adds its mask: a boolean one would be silently wrong.
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )


def _two_way_groups(types: Tensor, kind: str) -> Tensor:
    if kind == "prompt":
        return torch.where(types == 0, 0, -1)
    image = types == 1
    first = image & ~nn.functional.pad(image, (1, 0), value=False)[:, :-1]
    return torch.where(image, first.long().cumsum(1) - 1, -1)


def _positions(
    model: nn.Module, inputs: Mapping[str, Any], layout: Layout, architecture: Architecture
) -> Tensor:
    positions = inputs.get("position_ids")
    if positions is None:
        positions = _multimodal_positions(model, inputs)
    if positions is None:
        return layout.ordinal + architecture.first_position
    return positions.flatten(-2)[..., layout.source]


def _grids(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: inputs[key] for key in ("image_grid_thw", "video_grid_thw") if inputs.get(key) is not None}


def _multimodal_positions(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """[3, 2B, L] as the model gives its own ordinary rows, or None where it just counts."""
    inner: Any = getattr(unwrap(model), "model", None)
    grids = _grids(inputs)
    if not hasattr(inner, "get_rope_index") or not grids or inputs.get("mm_token_type_ids") is None:
        return None
    positions, _ = inner.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        attention_mask=inputs.get("attention_mask"),
        **{key: torch.cat([grid, grid]) for key, grid in grids.items()},
    )
    return positions
