"""What a researcher wants to see of the weighting, kept on the device and read once per logging step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_plugin.method.loss import AspoOutput
from aspo_plugin.method.weights import scaled_perplexity, scaled_similarity

# exp of more would overflow the float32 sums of the log; a perplexity this large is "infinite" to a reader.
_MAX_LOG_PERPLEXITY = 60.0
_SIGNALS = ("similarity", "perplexity")
# Of each response that has what it takes, its mean.
_MEANS = (
    "weight_mean",
    "weight_spread",
    "lowest_similarity_weight_share",
    "lowest_similarity_token_share",
)
_SHARES = (
    "single_sentence_share",
    "two_sentence_tie_share",
    "missing_similarity_share",
    "rejected_missing_similarity_share",
    "negative_coefficient_share",
    "normalization_fallback_share",
    "shared_prefix_share",
)


class AspoMetrics:
    """Running sums, minima and maxima over the pairs since the last `compute`.

    `update` never synchronises with the host. `compute` makes one collective and one transfer, so call it at
    each logging step on every rank, also on a rank that saw no batch.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._bounds: Tensor | None = None

    @torch.no_grad()
    def update(self, output: AspoOutput, shared_prefix: bool = False) -> None:
        """Add the pairs of one batch; `shared_prefix`: whether image and prompt passed once per pair."""
        present = output.token_counts > 0
        sentences = present.sum(dim=1)
        perplexity = output.nll.clamp(max=_MAX_LOG_PERPLEXITY).exp()
        signals = [output.similarity, perplexity]
        masks = [present & ~output.similarity.isnan(), present]
        # Two sentences whose signals disagree at alpha 0.5 get equal weights: the pair trains as plain DPO.
        spread = torch.where(present, output.weights, -torch.inf).amax(1) - torch.where(
            present, output.weights, torch.inf
        ).amin(1)
        tie = (sentences == 2) & (spread < 1e-6) & (output.weights.sum(1) > 0)
        shares = [sentences == 1, tie, output.similarity_missing, output.rejected_similarity_missing]
        shares += [(output.coefficients < 0).any(1), output.factor_fallback]
        shares.append(torch.full_like(tie, shared_prefix))
        means = self._means(output, present)
        sums = [torch.where(mask, value, 0.0).sum() for value, mask in zip(signals, masks, strict=True)]
        sums += [mask.sum() for mask in masks]
        sums += [torch.where(mask, value, 0.0).sum() for value, mask in means]
        sums += [mask.sum() for _, mask in means]
        sums += _products(output, present)
        sums += [sentences.sum(), output.factor.sum(), torch.ones_like(sentences).sum()]
        sums += [share.sum() for share in shares]
        lows = [torch.where(m, v, torch.inf).amin() for v, m in zip(signals, masks, strict=True)]
        highs = [torch.where(m, v, -torch.inf).amax() for v, m in zip(signals, masks, strict=True)]
        new_sums = torch.stack([value.to(torch.float32) for value in sums])
        new_bounds = torch.stack([-low.to(torch.float32) for low in lows] + [high.float() for high in highs])
        if self._sums is None or self._bounds is None:
            self._sums, self._bounds = new_sums, new_bounds
        else:
            self._sums = self._sums + new_sums
            self._bounds = torch.maximum(self._bounds, new_bounds)

    @staticmethod
    def _means(output: AspoOutput, present: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The values of `_MEANS` and where they hold: weights by sentence, the others by response."""
        count = present.sum(1).clamp(min=1)
        several = present.sum(1) > 1
        around = torch.where(present, output.weights - (output.weights.sum(1) / count).unsqueeze(1), 0.0)
        deviation = (around.square().sum(1) / count).sqrt()
        known = several & ~(present & output.similarity.isnan()).any(1)
        lowest = torch.where(present, output.similarity.nan_to_num(), torch.inf).argmin(1, keepdim=True)
        tokens = output.token_counts
        total = tokens.sum(1).clamp(min=1.0)
        weighted = output.coefficients * tokens
        whole = weighted.sum(1)
        weight_share = weighted.gather(1, lowest).squeeze(1) / torch.where(whole > 0, whole, 1.0)
        token_share = tokens.gather(1, lowest).squeeze(1) / total
        return [
            (output.weights, present),
            (deviation, several),
            (weight_share, known),
            (token_share, known),
        ]

    @torch.no_grad()
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
        signals, means = len(_SIGNALS), len(_MEANS)
        n = 2 * signals + 2 * means + 3 + 3 + len(_SHARES)
        if self._sums is None or self._bounds is None:
            row = torch.cat([torch.zeros(n), torch.full((2 * signals,), -torch.inf)]).to(device)
        else:
            row = torch.cat([self._sums, self._bounds])
        self._sums = self._bounds = None
        rows = row.unsqueeze(0) if gather is None else gather(row.unsqueeze(0))
        total = iter(torch.cat([rows[:, :n].sum(0), rows[:, n:].amax(0)]).tolist())

        def take(number: int) -> list[float]:
            return [next(total) for _ in range(number)]

        signal_sums, counts = take(signals), take(signals)
        mean_sums, mean_counts = take(means), take(means)
        squares = take(3)
        sentences, factor, pairs = take(3)
        shares, lows, highs = take(len(_SHARES)), take(signals), take(signals)
        if not pairs:
            return {}
        values: dict[str, float] = {}
        for k, name in enumerate(_SIGNALS):
            if counts[k]:
                values[f"{name}_mean"] = signal_sums[k] / counts[k]
                values[f"{name}_min"] = -lows[k]
                values[f"{name}_max"] = highs[k]
        for name, value, count in zip(_MEANS, mean_sums, mean_counts, strict=True):
            if count:
                values[name] = value / count
        if squares[0] > 0 and squares[1] > 0:
            values["signal_correlation"] = squares[2] / (squares[0] * squares[1]) ** 0.5
        values["sentences_mean"] = sentences / pairs
        values["factor_mean"] = factor / pairs
        values.update({name: share / pairs for name, share in zip(_SHARES, shares, strict=True)})
        return {f"{prefix}{name}": value for name, value in values.items()}


def _products(output: AspoOutput, present: Tensor) -> list[Tensor]:
    """Sums of S'^2, PPL'^2 and S' PPL', each around its mean in a response whose similarities are known."""
    known = present & ~(present & output.similarity.isnan()).any(1, keepdim=True)
    count = known.sum(1, keepdim=True).clamp(min=1)
    similarity = scaled_similarity(torch.where(known, output.similarity, 0.0), known)
    perplexity = torch.where(known, scaled_perplexity(output.nll, known), 0.0)
    a, b = (
        torch.where(known, value - value.sum(1, keepdim=True) / count, 0.0)
        for value in (similarity, perplexity)
    )
    return [(a * a).sum(), (b * b).sum(), (a * b).sum()]
