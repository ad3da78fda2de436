"""What each sentence's log-ratio is multiplied by: the paper's way, and the options beyond it.

All functions take `[B, K]` float tensors over the K sentences of B responses; everything here is a constant
of the training step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aspo_plugin.method.weights import normalization_factor

WEIGHTINGS = ("paper", "centred", "centred_bounded", "given")


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
    - `given`: c_i = w_i as it is (normalisation `none`), or w_i sum_j |s_j| / sum_j |w_j| |s_j| (`weight`),
      which keeps the total token weight; 1 where every w_i is 0. Beyond the paper.

    Equal weights above 0 (of one sentence, say) give c_i = 1, plain DPO, for all but `given` with `none`.

    Args:
        weights: w_i, 0 where absent.
        token_counts: |s_i|, 0 for an absent sentence.
        log_ratios: l_i, 0 for an absent sentence; read by `normalization` `reward` only.
        scale: of `centred` and `centred_bounded`.
        normalization: of `paper` and `given`.

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
    if weighting == "given":
        return _given(weights, token_counts, total, normalization)
    mean = (weights * token_counts).sum(dim=1, keepdim=True) / total.clamp(min=1.0)
    values = torch.where(present, 1.0 + scale * (weights - mean), 0.0)
    if weighting == "centred_bounded":
        values = values.clamp(min=0.0)
        # Never 0, for the highest weight of a response is not below its mean.
        kept = (values * token_counts).sum(dim=1, keepdim=True)
        values = values * total / torch.where(kept > 0, kept, 1.0)
    ones = torch.ones_like(weights[:, 0])
    return Coefficients(values, ones, torch.zeros_like(ones, dtype=torch.bool))


def _given(weights: Tensor, token_counts: Tensor, total: Tensor, normalization: str) -> Coefficients:
    if normalization not in ("weight", "none"):
        raise ValueError(f"normalization is {normalization!r}: with given weights choose weight or none.")
    ones = torch.ones_like(weights[:, 0])
    fallback = torch.zeros_like(ones, dtype=torch.bool)
    if normalization == "none":
        return Coefficients(weights, ones, fallback)
    given = (weights.abs() * token_counts).sum(dim=1, keepdim=True)
    factor = torch.where(given > 0, total / torch.where(given > 0, given, 1.0), 1.0)
    values = torch.where(given > 0, factor * weights, (token_counts > 0).to(weights.dtype))
    return Coefficients(values, factor.squeeze(1), fallback)
