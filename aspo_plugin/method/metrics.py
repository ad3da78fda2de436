"""What a researcher wants to see of the weighting, kept on the device and read once per logging step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_plugin.method.loss import AspoOutput

# exp of more would overflow the float32 sums of the log; a perplexity this large is "infinite" to a reader.
_MAX_LOG_PERPLEXITY = 60.0
_SIGNALS = ("weight", "similarity", "perplexity")
_SHARES = (
    "single_sentence_share",
    "two_sentence_tie_share",
    "missing_similarity_share",
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
        signals = [output.weights, output.similarity, perplexity]
        masks = [present, present & ~output.similarity.isnan(), present]
        # Two sentences whose signals disagree at alpha 0.5 get equal weights: the pair trains as plain DPO.
        spread = torch.where(present, output.weights, -torch.inf).amax(1) - torch.where(
            present, output.weights, torch.inf
        ).amin(1)
        tie = (sentences == 2) & (spread < 1e-6) & (output.weights.sum(1) > 0)
        shares = [sentences == 1, tie, output.similarity_missing, output.factor_fallback]
        shares.append(torch.full_like(tie, shared_prefix))
        sums = [torch.where(mask, value, 0.0).sum() for value, mask in zip(signals, masks, strict=True)]
        sums += [mask.sum() for mask in masks]
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
            The same keys on every rank: `weight`, `similarity`, `perplexity`, each with `_mean`, `_min` and
            `_max` over sentences (left out where no sentence has one), `sentences_mean`, `factor_mean` and
            shares over responses. Empty if no rank saw a batch.
        """
        n = 2 * len(_SIGNALS) + 3 + len(_SHARES)
        if self._sums is None or self._bounds is None:
            row = torch.cat([torch.zeros(n), torch.full((2 * len(_SIGNALS),), -torch.inf)]).to(device)
        else:
            row = torch.cat([self._sums, self._bounds])
        self._sums = self._bounds = None
        rows = row.unsqueeze(0) if gather is None else gather(row.unsqueeze(0))
        total = torch.cat([rows[:, :n].sum(0), rows[:, n:].amax(0)]).tolist()
        signal_sums, counts = total[: len(_SIGNALS)], total[len(_SIGNALS) : 2 * len(_SIGNALS)]
        sentences, factor, pairs = total[2 * len(_SIGNALS) : 2 * len(_SIGNALS) + 3]
        if not pairs:
            return {}
        shares, bounds = total[2 * len(_SIGNALS) + 3 : n], total[n:]
        values: dict[str, float] = {}
        for k, name in enumerate(_SIGNALS):
            if counts[k]:
                values[f"{name}_mean"] = signal_sums[k] / counts[k]
                values[f"{name}_min"] = -bounds[k]
                values[f"{name}_max"] = bounds[len(_SIGNALS) + k]
        values["sentences_mean"] = sentences / pairs
        values["factor_mean"] = factor / pairs
        values.update({name: share / pairs for name, share in zip(_SHARES, shares, strict=True)})
        return {f"{prefix}{name}": value for name, value in values.items()}
