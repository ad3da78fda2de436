"""What each sentence's log-ratio is multiplied by: the paper's way, and two options beyond it.

All functions take `[B, K]` float tensors over the K sentences of B responses; everything here is a constant
of the training step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aspo_plugin.method.weights import normalization_factor

WEIGHTINGS = ("paper", "centred", "centred_bounded")


class Coefficients(NamedTuple):
    """Attributes:
    values: c_i, `[B, K]`, 0 for an absent sentence.
    factor: R_c / R_c*, `[B]`; 1 where the weighting needs none.
    fallback: `[B]` bool, responses where `weight` stood in for `reward`.
    """

    values: Tensor
    factor: Tensor
    fallback: Tensor


def sentence_coefficients(
    weights: Tensor,
    token_counts: Tensor,
    log_ratios: Tensor,
    *,
    weighting: str = "paper",
    scale: float = 2.0,
    normalization: str = "weight",
) -> Coefficients:
    """c_i of each sentence: the margin is the sum of beta c_i l_i.

    - `paper`: c_i = (R_c / R_c*) (1 + w_i), see `weights.normalization_factor`.
    - `centred`: c_i = 1 + scale (w_i - sum_j w_j |s_j| / sum_j |s_j|). Beyond the paper. The total token
      weight of a response is unchanged, so no factor is needed. At scale 2 a sentence that lies further than
      1/2 below its response's mean gets a negative coefficient: it is pushed down though it was chosen.
    - `centred_bounded`: the same with negative c_i set to 0 and the others scaled so that the total token
      weight stays.

    Equal weights (of one sentence, say) give c_i = 1 for every way of these: plain DPO.

    Args:
        weights: w_i, 0 where absent.
        token_counts: |s_i|, 0 for an absent sentence.
        log_ratios: l_i, 0 for an absent sentence; read by `normalization` `reward` only.
        scale: of `centred` and `centred_bounded`.
        normalization: of `paper`.

    Raises:
        ValueError: an unknown weighting or normalisation.
    """
    present = token_counts > 0
    if weighting == "paper":
        factor, fallback = normalization_factor(normalization, weights, token_counts, log_ratios)
        return Coefficients(
            torch.where(present, factor.unsqueeze(1) * (1.0 + weights), 0.0), factor, fallback
        )
    if weighting not in WEIGHTINGS:
        raise ValueError(f"weighting is {weighting!r}: choose one of {', '.join(WEIGHTINGS)}.")
    total = token_counts.sum(dim=1, keepdim=True)
    mean = (weights * token_counts).sum(dim=1, keepdim=True) / total.clamp(min=1.0)
    values = torch.where(present, 1.0 + scale * (weights - mean), 0.0)
    if weighting == "centred_bounded":
        values = values.clamp(min=0.0)
        # Never 0, for the highest weight of a response is not below its mean.
        kept = (values * token_counts).sum(dim=1, keepdim=True)
        values = values * total / torch.where(kept > 0, kept, 1.0)
    ones = torch.ones_like(weights[:, 0])
    return Coefficients(values, ones, torch.zeros_like(ones, dtype=torch.bool))
