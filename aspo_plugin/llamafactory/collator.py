"""The host's pairwise batch, with the sentence of every chosen token and the similarity of every sentence."""

from __future__ import annotations

from typing import Any

import torch
from llamafactory.data import PairwiseDataCollatorWithPadding
from torch import Tensor


class SentencePairCollator(PairwiseDataCollatorWithPadding):
    """Adds to the host's batch of 2B rows (B chosen, then B rejected):

    - `sentence_ids`: `[B, L]` long, the sentence of each trained token of the chosen rows, -1 elsewhere.
    - `similarity`: `[B, K]` float32, NaN where unknown; K is the most sentences of a response in the batch.
    """

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        ids = [torch.tensor(feature["chosen_sentence_ids"]) for feature in features]
        values = [feature["chosen_similarity"] for feature in features]
        batch = super().__call__(features)
        inner = batch.get("data", batch)  # MiniCPM-V nests what the model takes
        batch["sentence_ids"] = scatter(ids, inner["attention_mask"][: len(features)])
        similarity = torch.full((len(values), max(len(value) for value in values)), torch.nan)
        for row, value in zip(similarity, values, strict=True):
            row[: len(value)] = torch.tensor(value)
        batch["similarity"] = similarity
        return batch


def scatter(ids: list[Tensor], attention_mask: Tensor) -> Tensor:
    """`ids[b]` at the positions of row b that are attended to, -1 elsewhere: `[B, L]` long.

    Right for padding on either side, and for the image tokens that the host appends, unattended, to the first
    row of a batch without images.
    """
    out = torch.full(attention_mask.shape, -1, dtype=torch.long)
    for row, mask, row_ids in zip(out, attention_mask.bool(), ids, strict=True):
        row[mask] = row_ids
    return out
