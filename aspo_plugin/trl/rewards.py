"""TRL's metrics of rewards and log-probs, read once per logging step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aspo_plugin.method.loss import AspoOutput


class RewardMeans:
    """Means of TRL's reward and log-prob metrics since the last `compute`, summed without synchronising."""

    NAMES = (
        "rewards/chosen",
        "rewards/rejected",
        "rewards/margins",
        "rewards/accuracies",
        "logps/chosen",
        "logps/rejected",
    )

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    @torch.no_grad()
    def update(self, output: AspoOutput, policy: Tensor) -> None:
        """Add one batch; `policy` is `[2B, L]`, the per-token log-probs."""
        chosen, rejected = output.chosen_rewards, output.rejected_rewards
        chosen_logps, rejected_logps = policy.detach().sum(dim=1).chunk(2)
        values = (
            chosen,
            rejected,
            chosen - rejected,
            (chosen > rejected).float(),
            chosen_logps,
            rejected_logps,
        )
        sums = torch.stack([value.sum() for value in (*values, torch.ones_like(chosen))])
        self._sums = sums if self._sums is None else self._sums + sums

    @torch.no_grad()
    def compute(self, gather: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """The means over all ranks, and start anew; empty if no rank saw a batch."""
        row = torch.zeros(len(self.NAMES) + 1, device=device) if self._sums is None else self._sums
        self._sums = None
        *sums, pairs = gather(row.unsqueeze(0)).sum(0).tolist()
        return {name: value / pairs for name, value in zip(self.NAMES, sums, strict=True)} if pairs else {}
