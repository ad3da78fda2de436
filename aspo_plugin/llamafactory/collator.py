"""The host's pairwise batch, with the sentence of every chosen token and the similarity of every sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from llamafactory.data import PairwiseDataCollatorWithPadding
from llamafactory.extras.constants import IGNORE_INDEX
from torch import Tensor

from aspo_plugin.llamafactory.upright import upright
from aspo_plugin.logprobs.pair_batch import IMAGE_INPUTS, PLACEHOLDER, images_once
from aspo_plugin.reference_cache.keys import KEYS, media_digest, row_keys


@dataclass
class SentencePairCollator(PairwiseDataCollatorWithPadding):
    """Adds to the host's batch of 2B rows (B chosen, then B rejected):

    - `sentence_ids`: `[B, L]` long, the sentence of each trained token of the chosen rows, `SHARED` for
      template tokens before both responses, -1 elsewhere.
    - `similarity`: `[B, K]` float32, NaN where unknown; K is the most sentences of a response in the batch.
    - with `weight_rejected`, `rejected_sentence_ids` and `rejected_similarity`: the same of the rejected
      rows.
    - with `reference_keys`, `KEYS`: what a row's reference log-probs are cached under.

    A pair's images are processed once, and are in the batch once where `images_once` can say so.
    """

    reference_keys: bool = False
    weight_rejected: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        template = upright(self.template)  # type: ignore[has-type]
        template.mm_plugin._get_mm_inputs = processed_once(template.mm_plugin._get_mm_inputs)
        self.template = template

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [torch.tensor(feature["chosen_sentence_ids"]) for feature in features]
        rejected_ids: list[Tensor] = []
        if self.weight_rejected:
            rejected_ids = [torch.tensor(feature["rejected_sentence_ids"]) for feature in features]
        digests: list[bytes] = []
        if self.reference_keys:
            kinds = ("images", "videos", "audios")
            digests = [media_digest(*(feature[kind] for kind in kinds)) for feature in features]
        seen = any(feature["images"] or feature["videos"] for feature in features)
        batch: dict[str, Any] = super().__call__(features)
        if seen:
            batch = images_once(batch)
        elif any(key in IMAGE_INPUTS for key in batch):
            batch[PLACEHOLDER] = True  # the host's blank image, which no row attends to
        inner = batch.get("data", batch)  # MiniCPM-V nests what the model takes
        batch["sentence_ids"] = scatter(ids, inner["attention_mask"][: len(features)])
        batch["similarity"] = padded([feature["chosen_similarity"] for feature in features])
        if self.weight_rejected:
            batch["rejected_sentence_ids"] = scatter(rejected_ids, inner["attention_mask"][len(features) :])
            batch["rejected_similarity"] = padded([feature["rejected_similarity"] for feature in features])
        if self.reference_keys:
            trained = batch["labels"] != IGNORE_INDEX
            batch[KEYS] = row_keys(inner["input_ids"], inner["attention_mask"], trained, digests * 2)
        return batch


def processed_once(process: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The host's `_get_mm_inputs` on the chosen rows' images alone where the rejected rows have the very same
    ones, its result repeated."""

    def once(
        images: list[Any],
        videos: list[Any],
        audios: list[Any],
        processor: Any,
        *imglens: Any,
        **options: Any,
    ) -> dict[str, Any]:
        # Most plugins take no `imglens`, and MiniCPM-V's take options: each is called as the host calls it.
        half = len(images) // 2
        same = not (videos or audios or options) and len(images) == 2 * half > 0
        same = same and all(a is b for a, b in zip(images[:half], images[half:], strict=True))
        once: tuple[Any, ...] = imglens
        if imglens and imglens[0] is not None:
            rows = len(imglens[0]) // 2
            same, once = same and imglens[0][:rows] == imglens[0][rows:], (imglens[0][:rows],)
        if not same:
            return process(images, videos, audios, processor, *imglens, **options)
        inputs = process(images[:half], videos, audios, processor, *once)
        return {key: torch.cat([v, v]) if torch.is_tensor(v) else _twice(v) for key, v in inputs.items()}

    return once


def _twice(value: Any) -> Any:
    return [*value, *value] if isinstance(value, list) else value


def padded(similarities: list[list[float]]) -> Tensor:
    """`[B, K]` float32, NaN behind a row's own."""
    table = torch.full((len(similarities), max(map(len, similarities))), torch.nan)
    for row, values in zip(table, similarities, strict=True):
        row[: len(values)] = torch.tensor(values)
    return table


def scatter(ids: list[Tensor], attention_mask: Tensor) -> Tensor:
    """`ids[b]` at the positions of row b that are attended to, -1 elsewhere: `[B, L]` long.

    Right for padding on either side, and for the image tokens that the host appends, unattended, to the first
    row of a batch without images.
    """
    out = torch.full(attention_mask.shape, -1, dtype=torch.long)
    for row, mask, row_ids in zip(out, attention_mask.bool(), ids, strict=True):
        row[mask] = row_ids
    return out
