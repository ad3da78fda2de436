"""What a researcher wants to see of the weighting, kept on the device and read once per logging step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_plugin.method.loss import AspoOutput
from aspo_plugin.method.running import Masked, RunningMeans
from aspo_plugin.method.weights import scaled_perplexity, scaled_similarity

# exp of more would overflow the float32 sums of the log; a perplexity this large is "infinite" to a reader.
_MAX_LOG_PERPLEXITY = 60.0
_OF_SENTENCES = ("similarity_mean", "perplexity_mean", "weight_mean")
# Of responses with several sentences.
_OF_SEVERAL = ("weight_spread", "lowest_similarity_weight_share", "lowest_similarity_token_share")
_OF_RESPONSES = (
    "sentences_mean",
    "factor_mean",
    "single_sentence_share",
    "two_sentence_tie_share",
    "missing_similarity_share",
    "rejected_missing_similarity_share",
    "negative_coefficient_share",
    "normalization_fallback_share",
    "shared_prefix_share",
)
_PRODUCTS = ("similarity_variance", "perplexity_variance", "covariance")
_SIGNALS = ("similarity", "perplexity")
REWARDS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


class AspoMetrics:
    """What ASPO did with the pairs since the last `compute`; see `RunningMeans` for what a call costs."""

    def __init__(self) -> None:
        self._running = RunningMeans(
            (*_OF_SENTENCES, *_OF_SEVERAL, *_OF_RESPONSES, *_PRODUCTS),
            [f"{sign}{name}" for name in _SIGNALS for sign in ("-", "+")],
        )

    @torch.no_grad()
    def update(self, output: AspoOutput, shared_prefix: bool = False) -> None:
        """Add the pairs of one batch; `shared_prefix`: whether image and prompt passed once per pair."""
        present = output.token_counts > 0
        similarity = (output.similarity, present & ~output.similarity.isnan())
        perplexity = (output.nll.clamp(max=_MAX_LOG_PERPLEXITY).exp(), present)
        means = {
            "similarity_mean": similarity,
            "perplexity_mean": perplexity,
            "weight_mean": (output.weights, present),
            **_of_several(output, present),
            **_of_responses(output, present, shared_prefix),
            **_products(output, present),
        }
        bounds: dict[str, Masked] = {}
        for name, (value, mask) in zip(_SIGNALS, (similarity, perplexity), strict=True):
            bounds |= {f"+{name}": (value, mask), f"-{name}": (-value, mask)}
        self._running.update(means, bounds)

    def compute(
        self,
        gather: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
        prefix: str = "aspo/",
    ) -> dict[str, float]:
        """The values since the last call, over all ranks, and start anew.

        Args:
            gather: concatenates `[1, n]` tensors of all ranks along dim 0 (`Accelerator.gather`).
            device: where a rank that saw no batch makes its empty row.
            prefix: before each name.

        Returns:
            The same keys on every rank. `similarity` and `perplexity`, each with `_mean`, `_min` and `_max`
            over sentences; `weight_mean` over sentences; over responses of several sentences `weight_spread`
            (standard deviation of a response's weights) and the share that the sentence of lowest similarity
            has of the weight (`lowest_similarity_weight_share`) and of the tokens, which is what DPO gives
            it; `signal_correlation` of S' and PPL' around their means in a response; `sentences_mean`,
            `factor_mean`; and shares of responses. What no response has is left out. Empty if no rank saw a
            batch.
        """
        found = self._running.compute(gather, device)
        values = {name: value for name, value in found.items() if name[0] not in "+-"}
        for name in _SIGNALS:
            if f"+{name}" in found:
                values[f"{name}_min"] = -found[f"-{name}"]
                values[f"{name}_max"] = found[f"+{name}"]
        ours, theirs, both = (values.pop(name, 0.0) for name in _PRODUCTS)
        if ours > 0 and theirs > 0:
            values["signal_correlation"] = both / (ours * theirs) ** 0.5
        return {f"{prefix}{name}": value for name, value in values.items()}


def reward_values(output: AspoOutput, chosen_logps: Tensor, rejected_logps: Tensor) -> dict[str, Tensor]:
    """The metrics that the hosts' DPO logs, `REWARDS`, each `[B]` and detached, from log-probs `[B, L]`."""
    chosen, rejected = output.chosen_rewards, output.rejected_rewards
    values = (
        chosen,
        rejected,
        (chosen > rejected).float(),
        chosen - rejected,
        chosen_logps.detach().sum(dim=1),
        rejected_logps.detach().sum(dim=1),
    )
    return dict(zip(REWARDS, values, strict=True))


def _of_responses(output: AspoOutput, present: Tensor, shared_prefix: bool) -> dict[str, Masked]:
    sentences = present.sum(dim=1)
    # Two sentences whose signals disagree at alpha 0.5 get equal weights: the pair trains as plain DPO. Equal
    # weights that the data gives are no such tie.
    apart = _spread(output.similarity, present) >= 1e-6
    tie = (sentences == 2) & (_spread(output.weights, present) < 1e-6) & apart
    values = (
        sentences,
        output.factor,
        sentences == 1,
        tie,
        output.similarity_missing,
        output.rejected_similarity_missing,
        (output.coefficients < 0).any(1),
        output.factor_fallback,
        torch.full_like(tie, shared_prefix),
    )
    every = torch.ones_like(tie)
    return {name: (value.float(), every) for name, value in zip(_OF_RESPONSES, values, strict=True)}


def _spread(values: Tensor, present: Tensor) -> Tensor:
    """Largest less smallest of each row, `[B]`; NaN where one is NaN."""
    return torch.where(present, values, -torch.inf).amax(1) - torch.where(present, values, torch.inf).amin(1)


def _of_several(output: AspoOutput, present: Tensor) -> dict[str, Masked]:
    count = present.sum(1).clamp(min=1)
    several = present.sum(1) > 1
    around = torch.where(present, output.weights - (output.weights.sum(1) / count).unsqueeze(1), 0.0)
    deviation = (around.square().sum(1) / count).sqrt()
    known = several & ~(present & output.similarity.isnan()).any(1)
    lowest = torch.where(present, output.similarity.nan_to_num(), torch.inf).argmin(1, keepdim=True)
    tokens = output.token_counts
    weighted = output.coefficients * tokens
    whole = weighted.abs().sum(1)  # given weights below 0 could add up to nothing
    weight_share = weighted.gather(1, lowest).squeeze(1) / torch.where(whole > 0, whole, 1.0)
    token_share = tokens.gather(1, lowest).squeeze(1) / tokens.sum(1).clamp(min=1.0)
    values = ((deviation, several), (weight_share, known), (token_share, known))
    return dict(zip(_OF_SEVERAL, values, strict=True))


def _products(output: AspoOutput, present: Tensor) -> dict[str, Masked]:
    """S'^2, PPL'^2 and S' PPL', each around its mean in a response whose similarities are known."""
    known = present & ~(present & output.similarity.isnan()).any(1, keepdim=True)
    count = known.sum(1, keepdim=True).clamp(min=1)
    similarity = scaled_similarity(torch.where(known, output.similarity, 0.0), known)
    perplexity = torch.where(known, scaled_perplexity(output.nll, known), 0.0)
    a, b = (
        torch.where(known, value - value.sum(1, keepdim=True) / count, 0.0)
        for value in (similarity, perplexity)
    )
    return {name: (value, known) for name, value in zip(_PRODUCTS, (a * a, b * b, a * b), strict=True)}
