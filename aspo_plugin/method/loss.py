"""The ASPO loss (arXiv 2505.19100): DPO whose chosen response is weighted sentence by sentence."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aspo_plugin.method.sentence_sums import SHARED, sentence_sums
from aspo_plugin.method.weights import fused_weights, normalization_factor


class AspoOutput(NamedTuple):
    """Per-pair losses and what explains them; all but `losses` detached; float32, or the inputs' if wider.

    Attributes:
        losses: `[B]`, differentiable.
        chosen_rewards, rejected_rewards: `[B]`; their difference is the margin M.
        weights: w_i, `[B, K]`, 0 for an absent sentence.
        similarity: raw S_i as given, `[B, K]`, NaN where missing or absent.
        nll: n_i, mean negative log-likelihood per token under the policy, `[B, K]`, 0 for an absent sentence.
        token_counts: |s_i|, `[B, K]` float, 0 for an absent sentence.
        factor: R_c / R_c*, `[B]`.
        similarity_missing: `[B]` bool, responses that lacked a similarity they needed.
        factor_fallback: `[B]` bool, responses where `weight` stood in for `reward`.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    weights: Tensor
    similarity: Tensor
    nll: Tensor
    token_counts: Tensor
    factor: Tensor
    similarity_missing: Tensor
    factor_fallback: Tensor


def aspo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    sentence_ids: Tensor,
    similarity: Tensor,
    *,
    beta: float,
    alpha: float,
    normalization: str = "weight",
) -> AspoOutput:
    """Loss = -log sigmoid(M) with M = (R_c / R_c*) sum_i beta (1 + w_i) l_i + beta l_0 - beta l(y_r).

    l_i = sum over the tokens t of sentence i of log pi(t) - log ref(t); l(y_r) is the same sum over the whole
    rejected response, which is one unit without weights. l_0, of template tokens before the chosen text that
    the rejected response begins with as well, is in l(y_r) too and cancels, as in DPO. w_i and R_c / R_c* are
    constants of the step (our choice), so d loss / d l_i is proportional to 1 + w_i. With one sentence, or
    all w_i = 0, this is DPO.

    Args:
        chosen_logps, ref_chosen_logps: per-token log-probs of the chosen responses under policy and
            reference, `[B, L]`; values where `sentence_ids` is -1 are not read.
        rejected_logps, ref_rejected_logps: the same for the rejected, `[B, L']`, 0 outside the response.
        sentence_ids: `[B, L]` integers, the sentence of each chosen response token, `SHARED` for a template
            token before the text that both responses begin with, -1 outside the response.
        similarity: cosine of each sentence with its image, `[B, K]`, NaN where missing; K exceeds every id.
        beta: strength of the KL constraint, as in DPO.
        alpha: share of similarity in the weights, in [0, 1].
        normalization: `weight`, `reward` or `none`, see `weights.normalization_factor`.

    Raises:
        ValueError: an empty chosen response (checked where it costs no synchronisation: tensors on the CPU).
    """
    inside = sentence_ids >= 0
    if inside.device.type == "cpu" and not bool(inside.any(dim=1).all()):
        empty = (~inside.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"the chosen response of pair(s) {empty} in this batch has no tokens")
    num_sentences = similarity.size(1)
    dtype = torch.promote_types(chosen_logps.dtype, torch.float32)
    policy = chosen_logps.to(dtype)

    token_counts = sentence_sums(inside.to(dtype), sentence_ids, num_sentences)
    present = token_counts > 0
    nll = -sentence_sums(policy.detach(), sentence_ids, num_sentences) / token_counts.clamp(min=1.0)
    log_ratios = sentence_sums(policy - ref_chosen_logps.to(dtype), sentence_ids, num_sentences)
    shared = torch.where(sentence_ids == SHARED, policy - ref_chosen_logps.to(dtype), 0.0).sum(dim=1)
    rejected_log_ratio = (rejected_logps.to(dtype) - ref_rejected_logps.to(dtype)).sum(dim=1)

    # w_i = alpha S'_i + (1 - alpha) PPL'_i
    weights, similarity_missing = fused_weights(similarity.to(dtype), nll, present, alpha)
    # R_c / R_c*
    factor, factor_fallback = normalization_factor(normalization, weights, token_counts, log_ratios.detach())
    # M = (R_c / R_c*) sum_i beta (1 + w_i) l_i + beta l_0 - beta l(y_r)
    chosen_rewards = factor * (beta * (1.0 + weights) * log_ratios).sum(dim=1) + beta * shared
    rejected_rewards = beta * rejected_log_ratio
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)

    return AspoOutput(
        losses=losses,
        chosen_rewards=chosen_rewards.detach(),
        rejected_rewards=rejected_rewards.detach(),
        weights=weights,
        similarity=torch.where(present, similarity.to(dtype), torch.nan),
        nll=nll,
        token_counts=token_counts,
        factor=factor,
        similarity_missing=similarity_missing,
        factor_fallback=factor_fallback,
    )
