"""Sentence weights and the normalisation factor (arXiv 2505.19100, and our choices where it is silent).

All functions take `[B, K]` float tensors over the K sentences of B chosen responses, with a mask `present`
(`[B, K]` bool) of the sentences that exist; nothing outside the mask changes a result. Everything here is a
constant of the training step: call it on detached tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this range a min-max has no meaning: every value is 0 (our choice; one sentence is such a case).
MIN_RANGE = 1e-6


def _bounds(values: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest present value per row, `[B, 1]` each; 0 and 0 for a row without any."""
    some = present.any(dim=1, keepdim=True)
    low = torch.where(present, values, torch.inf).amin(dim=1, keepdim=True)
    high = torch.where(present, values, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)


def scaled_similarity(similarity: Tensor, present: Tensor) -> Tensor:
    """S'_i = (S_i - min S) / (max S - min S) over the sentences of a response, in [0, 1]. From the paper.

    Args:
        similarity: cosine of each sentence with the image, `[B, K]`, finite where `present`.
        present: `[B, K]` bool.
    """
    low, high = _bounds(similarity, present)
    usable = present & (high - low > MIN_RANGE)
    span = torch.where(high - low > MIN_RANGE, high - low, 1.0)
    return torch.where(usable, (torch.where(present, similarity, low) - low) / span, 0.0)


def scaled_perplexity(nll: Tensor, present: Tensor) -> Tensor:
    """PPL'_i = min-max of -PPL_i with PPL_i = exp(n_i): 1 for the surest sentence, 0 for the least sure.

    Computed as expm1(n_i - n_max) / expm1(n_min - n_max), which is the same number and never overflows.

    Args:
        nll: n_i, mean negative log-likelihood per token of each sentence under the policy, `[B, K]`.
        present: `[B, K]` bool.
    """
    low, high = _bounds(nll, present)
    usable = present & (high - low > MIN_RANGE)
    below = torch.where(usable, nll - high, 0.0)
    lowest = torch.where(high - low > MIN_RANGE, low - high, -1.0)
    return torch.expm1(below) / torch.expm1(lowest)


def fused_weights(similarity: Tensor, nll: Tensor, present: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """w_i = alpha S'_i + (1 - alpha) PPL'_i. From the paper.

    A response with a missing similarity (NaN at a present sentence) uses w = PPL' where alpha < 1 and w = 0,
    plain DPO, where alpha = 1 (our choice).

    Returns:
        weights: `[B, K]`, in [0, 1], 0 where not present.
        missing: `[B]` bool, the responses that lacked a similarity they needed; all False at alpha = 0.
    """
    missing = (present & similarity.isnan()).any(dim=1)
    if alpha == 0.0:
        return scaled_perplexity(nll, present), torch.zeros_like(missing)
    similarity = torch.where(missing.unsqueeze(1), 0.0, similarity)
    similarity_part = scaled_similarity(similarity, present)
    if alpha == 1.0:
        return similarity_part, missing
    perplexity_part = scaled_perplexity(nll, present)
    weights = alpha * similarity_part + (1.0 - alpha) * perplexity_part
    return torch.where(missing.unsqueeze(1), perplexity_part, weights), missing


def rejected_weights(similarity: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """v_j = 1 - S'_j over the sentences of a rejected response: what fits the image least is pushed down
    most.

    Beyond the paper. Where all similarities are equal every v_j is 0, and so it is in a response with a
    missing one (NaN at a present sentence): that response is one unit, as in the paper.

    Returns:
        weights: `[B, K]`, in [0, 1], 0 where not present.
        missing: `[B]` bool, the responses that lacked a similarity.
    """
    missing = (present & similarity.isnan()).any(dim=1)
    known = torch.where(missing.unsqueeze(1), 0.0, similarity)
    return scaled_similarity(-known, present), missing


def given_weights(similarity: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the data as they are, for the weighting `given`; 1 throughout a response that lacks one.

    Beyond the paper. No min-max, no perplexity: whoever wrote the numbers has weighed the sentences.

    Returns:
        weights: `[B, K]`, any finite number, 0 where not present.
        missing: `[B]` bool, the responses that lacked a number (NaN at a present sentence).
    """
    missing = (present & similarity.isnan()).any(dim=1)
    known = torch.where(missing.unsqueeze(1), 1.0, similarity)
    return torch.where(present, known, 0.0), missing


def weights_of_rejected(weighting: str, similarity: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of rejected sentences, and which responses lacked a similarity: `given_weights` for the
    weighting `given`, else `rejected_weights`.
    """
    weigh = given_weights if weighting == "given" else rejected_weights
    return weigh(similarity, present)


def normalization_factor(
    normalization: str, weights: Tensor, token_counts: Tensor, log_ratios: Tensor
) -> tuple[Tensor, Tensor]:
    """R_c / R_c*: keeps a long response from gaining reward only because its total weight grew.

    - `weight`: sum_i |s_i| / sum_i (1 + w_i)|s_i|, in [0.5, 1]. Our default: total token weight unchanged.
    - `reward`: sum_i l_i / sum_i (1 + w_i) l_i, the paper's symbols read literally. Used only where all l_i
      of the response share one sign and are not all zero, where it lies in [0.5, 1]; elsewhere `weight`.
    - `none`: 1.

    Args:
        weights: w_i, `[B, K]`.
        token_counts: |s_i|, `[B, K]` float, 0 for an absent sentence.
        log_ratios: l_i, `[B, K]`, 0 for an absent sentence.

    Returns:
        factor `[B]`, and `[B]` bool: the responses where `weight` stood in for `reward`.
    """
    none = torch.zeros_like(weights[:, 0], dtype=torch.bool)
    if normalization == "none":
        return torch.ones_like(weights[:, 0]), none
    by_weight = token_counts.sum(1) / ((1.0 + weights) * token_counts).sum(1).clamp(min=1.0)
    if normalization == "weight":
        return by_weight, none
    if normalization != "reward":
        raise ValueError(f"normalization is {normalization!r}: choose one of weight, reward, none.")
    largest = log_ratios.abs().amax(dim=1)
    one_sign = (log_ratios >= 0).all(dim=1) | (log_ratios <= 0).all(dim=1)
    usable = one_sign & (largest > 0)
    # Scaled by the largest, so that neither tiny nor huge log-ratios lose the ratio to rounding.
    unit = torch.where(usable, largest, 1.0).unsqueeze(1)
    scaled = torch.where(usable.unsqueeze(1), log_ratios / unit, 1.0)
    by_reward = scaled.sum(1) / ((1.0 + weights) * scaled).sum(1)
    return torch.where(usable, by_reward, by_weight), ~usable
