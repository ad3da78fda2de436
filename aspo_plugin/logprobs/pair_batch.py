"""A batch of preference pairs, as ordinary rows and as one row per pair: what the model takes of either.

For collators: a batch whose rejected rows have the same images as its chosen rows may carry the chosen
rows' image tensors alone, marked by `batch[IMAGES_ONCE] = True`. `images_once` makes such a batch of an
ordinary one; a collator that processes the chosen rows' images only and sets the mark saves that work
too. In place of True the mark may be the names of these inputs, which then need not be known here
(`image_inputs`). `ResponseLogProbs` takes both kinds of batch, and repeats the images where it needs
ordinary rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aspo_plugin.logprobs import self_check as checks
from aspo_plugin.logprobs.architectures import Architecture
from aspo_plugin.logprobs.attention import attention_masks
from aspo_plugin.logprobs.output_layer import Rows, unwrap
from aspo_plugin.logprobs.pair_layout import Layout, Plan, ordinary_rows, plan, to_device, to_layout
from aspo_plugin.logprobs.vision_tower import TowerOutputs

IMAGES_ONCE = "aspo_images_once"
# On a batch without images that carries one nobody attends to: every process of a sharded model then runs the
# vision tower. Its tokens stand unattended behind the first row, so such a batch stays as it is.
PLACEHOLDER = "aspo_placeholder_image"

TOKEN_INPUTS = frozenset(
    "input_ids attention_mask token_type_ids mm_token_type_ids moe_mm_token_type_ids cross_attention_mask "
    "position_ids".split()
)
IMAGE_INPUTS = frozenset(
    "pixel_values pixel_attention_mask image_grid_thw image_sizes aspect_ratio_ids aspect_ratio_mask "
    "qformer_input_ids qformer_attention_mask batch_num_images num_crops pixel_values_videos video_grid_thw "
    "second_per_grid_ts image_position_ids high_res_pixel_values spatial_shapes pixel_mask "
    "image_merge_sizes video_merge_sizes".split()
)
# Made for generation after a prompt; a training forward does not read them.
UNUSED_INPUTS = frozenset({"rope_deltas"})

# What the layout follows from, copied to the host at once; grids where positions follow them.
_HOST = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
_GRIDS = ("image_grid_thw", "video_grid_thw")
# A masked row's length is rounded up to this on a GPU: for the alignment of masked kernels, and under
# `torch.compile` for few different shapes.
_ALIGNED, _FEW_SHAPES = 8, 64


def images_once(batch: dict[str, Any]) -> dict[str, Any]:
    """Keep the chosen rows' images alone where the rejected rows' are equal, else the batch as it is.

    Either way it is marked, so that no one compares the pixels again; a batch without images is not.
    """
    keys = [key for key in batch if key in IMAGE_INPUTS]
    if not keys or IMAGES_ONCE in batch:
        return batch
    if not all(_twice(batch[key]) for key in keys):
        return {**batch, IMAGES_ONCE: False}
    halves = {key: batch[key][: len(batch[key]) // 2] for key in keys}
    return {**batch, **halves, IMAGES_ONCE: True}


def images_twice(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The ordinary batch, every row with its own images: what a model takes without a shared prefix."""
    rest = {key: value for key, value in batch.items() if key not in (IMAGES_ONCE, PLACEHOLDER)}
    if not batch.get(IMAGES_ONCE):
        return rest
    images = image_inputs(batch)
    return {key: _repeated(value) if key in images else value for key, value in rest.items()}


def image_inputs(batch: Mapping[str, Any]) -> frozenset[str]:
    """The inputs of a batch that describe images: those that its mark names, else those known here."""
    named = batch.get(IMAGES_ONCE)
    # A list, once memory was pinned.
    return frozenset(named) if isinstance(named, tuple | list) else IMAGE_INPUTS & batch.keys()


def _repeated(value: Any) -> Any:
    return torch.cat([value, value]) if torch.is_tensor(value) else [*value, *value]


def _twice(value: Any) -> bool:
    if not torch.is_tensor(value) or len(value) % 2:
        return False
    half = len(value) // 2
    return bool(torch.equal(value[:half], value[half:]))


class PairBatch:
    """One batch of ordinary rows, its layout, and the inputs of the model in both forms.

    `layout`: None where the batch goes the plain way; `reason` says why. `tower_outputs`: what frozen
    vision towers gave, kept between the passes over the batch.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        response_mask: Tensor,
        architecture: Architecture | str,
        *,
        packed: bool = False,
    ) -> None:
        """`packed`: pairs stand in one row, one behind the other; for kernels that make no mask of it."""
        input_ids = inputs["input_ids"]
        if "labels" in inputs:
            raise ValueError("inputs holds labels: the model would compute a loss over all tokens; drop them")
        if response_mask.shape != input_ids.shape:
            raise ValueError(
                f"response_mask is {tuple(response_mask.shape)}, input_ids {tuple(input_ids.shape)}"
            )
        self.inputs, self.architecture = inputs, architecture
        self.shape = (input_ids.shape[0], input_ids.shape[1])
        self.packs, self.packed = packed, False  # asked for, and so in one row
        self.held = False  # goes the plain way until the self-check has seen its like
        host = _on_host(inputs, response_mask)
        wanted = host["response"].astype(bool)
        predictor, place = to_device(ordinary_rows(wanted), input_ids.device)
        self.place = place
        self.ordinary_rows = Rows(predictor, input_ids.flatten()[place], self.shape)
        self.layout: Layout | None = None
        self.tower_outputs = TowerOutputs()
        self.reason = architecture if isinstance(architecture, str) else ""
        if isinstance(architecture, Architecture):
            seen = host.get("attention_mask", np.ones(self.shape, dtype=np.int64)).astype(bool)
            self._share(model, architecture, host, seen, wanted, packed)

    def _share(
        self,
        model: nn.Module,
        architecture: Architecture,
        host: dict[str, np.ndarray],
        seen: np.ndarray,
        wanted: np.ndarray,
        packed: bool,
    ) -> None:
        inputs, input_ids = self.inputs, self.inputs["input_ids"]
        self.reason = _unfit(inputs, architecture, int(seen.sum(1).max()))
        if self.reason:
            return
        packed = packed and "cross_attention_mask" not in inputs  # which row sees which image
        rounded = _FEW_SHAPES if architecture.compiled else _ALIGNED
        made = plan(
            host["input_ids"],
            seen,
            wanted,
            two_way=_two_way(architecture, host),
            packed=packed,
            multiple=rounded if input_ids.is_cuda else 1,
        )
        if isinstance(made, str):
            self.reason = made
            return
        single = images_once(dict(inputs))
        if not single.get(IMAGES_ONCE) and has_images(inputs):
            self.reason = "the images of chosen and rejected differ"
            return
        self.packed = packed
        self.layout = to_layout(made, input_ids.device)
        self.shared_rows = self.layout.rows(input_ids)
        if not inputs.get(IMAGES_ONCE):  # the grids of both halves are on the host
            host |= {key: host[key][: len(host[key]) // 2] for key in _GRIDS if key in host}
        self.shared = _shared_inputs(model, single, host, made, self.layout, architecture)

    @property
    def ordinary(self) -> dict[str, Any]:
        return {k: v for k, v in images_twice(self.inputs).items() if k not in UNUSED_INPUTS}

    def padded(self) -> tuple[Rows, dict[str, Any]]:
        """The ordinary rows with more padding, for the self-check."""
        rows, length = self.ordinary_rows, self.shape[1]
        wider = length + checks.PADDING
        index = rows.index // length * wider + rows.index % length
        inputs = checks.more_padding(self.ordinary, length, TOKEN_INPUTS)
        return Rows(index, rows.targets, (self.shape[0], wider)), inputs

    def scatter(self, logps: Tensor) -> Tensor:
        """Log-probs [N] of the response tokens at their places in [2B, L]."""
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float32, device=logps.device)
        return flat.index_put((self.place.to(logps.device),), logps).view(self.shape)


def has_images(inputs: Mapping[str, Any]) -> bool:
    return bool(image_inputs(inputs))


def _on_host(inputs: Mapping[str, Any], response_mask: Tensor) -> dict[str, np.ndarray]:
    """What the layout follows from as arrays of int64, with the response mask as "response": one copy."""
    names = (*_HOST, *_GRIDS)
    found = {name: inputs[name] for name in names if torch.is_tensor(inputs.get(name))}
    found["response"] = response_mask
    parts = torch.cat([value.reshape(-1).long() for value in found.values()]).cpu()
    split = parts.split([value.numel() for value in found.values()])
    shapes = [value.shape for value in found.values()]
    return {name: part.view(shape).numpy() for name, part, shape in zip(found, split, shapes, strict=True)}


def _unfit(inputs: Mapping[str, Any], architecture: Architecture, longest: int) -> str:
    """Why these inputs must stay ordinary rows, or ""; `longest` is the longest of them."""
    if PLACEHOLDER in inputs:
        return "a placeholder image stands in a batch without images"
    known = TOKEN_INPUTS | image_inputs(inputs) | UNUSED_INPUTS | {IMAGES_ONCE}
    unknown = [key for key in inputs if key not in known]
    if unknown:
        return f"the model input {', '.join(sorted(unknown))} is not known here"
    for key in ("token_type_ids", "mm_token_type_ids"):
        value = inputs.get(key)
        if value is not None and value.shape != inputs["input_ids"].shape:
            return f"{key} is not laid out as the tokens are"
    mixed = len(architecture.layers) > 1 and not architecture.per_layer
    if architecture.window and mixed and longest > architecture.window:
        return "a row is longer than the attention window of a model that takes one mask for all layers"
    if (
        architecture.counts_images
        and inputs.get("position_ids") is None
        and any(inputs.get(key) is not None for key in _GRIDS)
    ):
        if inputs.get("mm_token_type_ids") is None:
            return "mm_token_type_ids, from which the positions of image tokens follow, are missing"
    if architecture.two_way and "token_type_ids" not in inputs:
        return "token_type_ids, which say which tokens see each other both ways, are missing"
    return ""


def _two_way(architecture: Architecture, host: dict[str, np.ndarray]) -> np.ndarray | None:
    if not architecture.two_way:
        return None
    return host["token_type_ids"] == {"image": 1, "prompt": 0}[architecture.two_way]


def _shared_inputs(
    model: nn.Module,
    inputs: Mapping[str, Any],
    host: dict[str, np.ndarray],
    made: Plan,
    layout: Layout,
    architecture: Architecture,
) -> dict[str, Any]:
    """What `model(**...)` takes in place of `inputs`, whose images are there once (`images_once`)."""
    laid: dict[str, Any] = {}
    images = image_inputs(inputs)
    for key, value in inputs.items():
        if key in images:
            laid[key] = value
        elif key in TOKEN_INPUTS and key not in ("attention_mask", "position_ids"):
            laid[key] = value.flatten(0, 1)[layout.source]
    masks = attention_masks(layout, architecture, unwrap(model).dtype)
    positions = _positions(model, inputs, host, made, layout, architecture)
    return {**laid, "attention_mask": masks, "position_ids": positions}


def _positions(
    model: nn.Module,
    inputs: Mapping[str, Any],
    host: dict[str, np.ndarray],
    made: Plan,
    layout: Layout,
    architecture: Architecture,
) -> Tensor:
    given = inputs.get("position_ids")
    if given is not None:
        return given.flatten(-2)[..., layout.source]
    counted = _multimodal_positions(model, host)
    if counted is None:
        return layout.ordinal + architecture.first_position
    laid = np.ascontiguousarray(counted.reshape(len(counted), -1)[:, made.source])
    return to_device((laid,), layout.source.device)[0]


def _multimodal_positions(model: nn.Module, host: dict[str, np.ndarray]) -> np.ndarray | None:
    """[3, 2B, L] as the model gives its own ordinary rows, or None where it just counts.

    From the tokens' copy on the host: on a GPU the model's function would wait for it ten times a row.
    """
    inner: Any = getattr(unwrap(model), "model", None)
    known = {key: torch.from_numpy(value) for key, value in host.items()}
    grids = {key: known[key] for key in _GRIDS if key in known}
    if not hasattr(inner, "get_rope_index") or not grids or "mm_token_type_ids" not in known:
        return None
    positions, _ = inner.get_rope_index(
        known["input_ids"],
        mm_token_type_ids=known["mm_token_type_ids"],
        attention_mask=known.get("attention_mask"),
        **{key: torch.cat([grid, grid]) for key, grid in grids.items()},
    )
    return positions.numpy()
