"""Sums of per-token values over the sentences of each response."""

from __future__ import annotations

import torch
from torch import Tensor

SHARED = -2
"""The sentence id of a trained token that belongs to none: template text that both responses begin with."""


def sentence_sums(values: Tensor, sentence_ids: Tensor, num_sentences: int) -> Tensor:
    """Sum `values` over the tokens of each sentence.

    Args:
        values: `[B, L]`, any float dtype; summed in float32 or wider.
        sentence_ids: `[B, L]` integers: the sentence of each token, negative for a token of none.
        num_sentences: K, larger than every id.

    Returns:
        `[B, K]`, 0 for a sentence without tokens. Differentiable in `values`; values of no sentence never
        matter, not even NaN.
    """
    batch = values.size(0)
    inside = sentence_ids >= 0
    values = torch.where(inside, values, 0.0).to(torch.promote_types(values.dtype, torch.float32))
    # One flat index_add: unlike a two-dimensional scatter it has a deterministic kernel on GPUs.
    rows = torch.arange(batch, device=values.device).unsqueeze(1) * num_sentences
    index = torch.where(inside, sentence_ids + rows, 0).flatten()
    sums = values.new_zeros(batch * num_sentences).index_add(0, index, values.flatten())
    return sums.view(batch, num_sentences)
