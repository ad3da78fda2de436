"""The ASPO loss (arXiv 2505.19100): DPO whose chosen response is weighted sentence by sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aspo_plugin.method.coefficients import sentence_coefficients
from aspo_plugin.method.sentence_sums import SHARED, sentence_sums
from aspo_plugin.method.weights import fused_weights, given_weights, weights_of_rejected


class AspoOutput(NamedTuple):
    """Per-pair losses and what explains them; all but `losses` detached; float32, or the inputs' if wider.

    Attributes:
        losses: `[B]`, differentiable.
        chosen_rewards, rejected_rewards: `[B]`; their difference is the margin M.
        weights: w_i, `[B, K]`, 0 for an absent sentence; with the weighting `given` the numbers of the data.
        similarity: raw S_i as given, `[B, K]`, NaN where missing or absent.
        nll: n_i, mean negative log-likelihood per token under the policy, `[B, K]`, 0 for an absent sentence.
        token_counts: |s_i|, `[B, K]` float, 0 for an absent sentence.
        log_ratios: l_i, `[B, K]`, 0 for an absent sentence.
        coefficients: c_i, what each l_i is multiplied by, `[B, K]`, 0 for an absent sentence.
        factor: R_c / R_c*, `[B]`; 1 with a centred weighting, and what `given` ones were multiplied by.
        similarity_missing: `[B]` bool, responses that lacked a similarity they needed.
        factor_fallback: `[B]` bool, responses where `weight` stood in for `reward`.
        rejected_similarity_missing: `[B]` bool, rejected responses that lacked a similarity they needed.
    """

    losses: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor
    weights: Tensor
    similarity: Tensor
    nll: Tensor
    token_counts: Tensor
    log_ratios: Tensor
    coefficients: Tensor
    factor: Tensor
    similarity_missing: Tensor
    factor_fallback: Tensor
    rejected_similarity_missing: Tensor


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
    weighting: str = "paper",
    weight_scale: float = 2.0,
    rejected_sentence_ids: Tensor | None = None,
    rejected_similarity: Tensor | None = None,
) -> AspoOutput:
    """Loss = -log sigmoid(M) with M = (R_c / R_c*) sum_i beta (1 + w_i) l_i + beta l_0 - beta l(y_r).

    l_i = sum over the tokens t of sentence i of log pi(t) - log ref(t); l(y_r) is the same sum over the whole
    rejected response, which is one unit without weights. l_0, of template tokens before the chosen text that
    the rejected response begins with as well, is in l(y_r) too and cancels, as in DPO. w_i and R_c / R_c* are
    constants of the step (our choice), so d loss / d l_i is proportional to 1 + w_i. With one sentence, or
    all w_i = 0, this is DPO.

    Beyond the paper: `weighting` replaces (R_c / R_c*) (1 + w_i) by another coefficient c_i, and with
    `rejected_similarity` the rejected response is weighted as well, by v_j = 1 - S'_j: its l_j are multiplied
    by the coefficients of v in place of w. Both are DPO where the weights of a response are equal. The
    weighting `given` takes `similarity` (and `rejected_similarity`) for the weights themselves: no min-max,
    no perplexity, and `alpha` is not read.

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
        weighting, weight_scale: see `coefficients.sentence_coefficients`.
        rejected_sentence_ids, rejected_similarity: of the rejected responses, `[B, L']` and `[B, K']`, as
            those of the chosen; both or none.

    Raises:
        ValueError: one of the two for the rejected responses without the other, or an empty response (checked
        where it costs no synchronisation: tensors on the CPU).
    """
    if (rejected_sentence_ids is None) != (rejected_similarity is None):
        raise ValueError("rejected_sentence_ids and rejected_similarity go together: give both, or none")
    _check_not_empty(sentence_ids, "chosen")
    inside = sentence_ids >= 0
    num_sentences = similarity.size(1)
    dtype = torch.promote_types(chosen_logps.dtype, torch.float32)
    policy = chosen_logps.to(dtype)

    token_counts = sentence_sums(inside.to(dtype), sentence_ids, num_sentences)
    present = token_counts > 0
    nll = -sentence_sums(policy.detach(), sentence_ids, num_sentences) / token_counts.clamp(min=1.0)
    log_ratios = sentence_sums(policy - ref_chosen_logps.to(dtype), sentence_ids, num_sentences)
    shared = torch.where(sentence_ids == SHARED, policy - ref_chosen_logps.to(dtype), 0.0).sum(dim=1)
    # w_i = alpha S'_i + (1 - alpha) PPL'_i
    if weighting == "given":
        weights, similarity_missing = given_weights(similarity.to(dtype), present)
    else:
        weights, similarity_missing = fused_weights(similarity.to(dtype), nll, present, alpha)
    # c_i = (R_c / R_c*) (1 + w_i), or another weighting's
    coefficients, factor, factor_fallback = sentence_coefficients(
        weights,
        token_counts,
        log_ratios.detach(),
        weighting=weighting,
        scale=weight_scale,
        normalization=normalization,
    )
    rejected_ratios = rejected_logps.to(dtype) - ref_rejected_logps.to(dtype)
    rejected_missing = torch.zeros_like(similarity_missing)
    if rejected_sentence_ids is None or rejected_similarity is None:
        rejected_log_ratio = rejected_ratios.sum(dim=1)
    else:
        _check_not_empty(rejected_sentence_ids, "rejected")
        rejected_log_ratio, rejected_missing = _weighted_rejected(
            rejected_ratios,
            rejected_sentence_ids,
            rejected_similarity.to(dtype),
            weighting=weighting,
            scale=weight_scale,
            normalization=normalization,
        )
    # M = sum_i beta c_i l_i + beta l_0 - beta l(y_r)
    chosen_rewards = beta * ((coefficients * log_ratios).sum(dim=1) + shared)
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
        log_ratios=log_ratios.detach(),
        coefficients=coefficients,
        factor=factor,
        similarity_missing=similarity_missing,
        factor_fallback=factor_fallback,
        rejected_similarity_missing=rejected_missing,
    )


def _weighted_rejected(
    ratios: Tensor, sentence_ids: Tensor, similarity: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    """sum_j c'_j l_j + l_0 of the rejected responses, `[B]`, and which of them lacked a similarity."""
    number = similarity.size(1)
    log_ratios = sentence_sums(ratios, sentence_ids, number)
    token_counts = sentence_sums((sentence_ids >= 0).to(ratios.dtype), sentence_ids, number)
    weights, missing = weights_of_rejected(options["weighting"], similarity, token_counts > 0)
    values = sentence_coefficients(weights, token_counts, log_ratios.detach(), **options).values
    shared = torch.where(sentence_ids == SHARED, ratios, 0.0).sum(dim=1)
    return (values * log_ratios).sum(dim=1) + shared, missing


def _check_not_empty(sentence_ids: Tensor, name: str) -> None:
    """Where it costs no synchronisation: on the CPU."""
    some = (sentence_ids >= 0).any(dim=1)
    if some.device.type == "cpu" and not bool(some.all()):
        empty = (~some).nonzero().flatten().tolist()
        raise ValueError(f"the {name} response of pair(s) {empty} in this batch has no tokens")
