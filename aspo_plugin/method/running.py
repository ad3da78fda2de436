"""Means and maxima that stay on the device until a logging step reads them, for all ranks at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Masked = tuple[Tensor, Tensor]
"""Values and, of the same shape, where they count."""


class RunningMeans:
    """Named means and maxima since the last `compute`.

    `update` never synchronises with the host. `compute` makes one collective and one transfer, so call it at
    each logging step on every rank, also on a rank that saw no batch.
    """

    def __init__(self, means: Sequence[str], highest: Sequence[str] = ()) -> None:
        self._means, self._highest = tuple(means), tuple(highest)
        self._sums: Tensor | None = None  # of the values, then of where they count
        self._maxima: Tensor | None = None

    @torch.no_grad()
    def update(self, means: Mapping[str, Masked], highest: Mapping[str, Masked] | None = None) -> None:
        """Add one batch: for every name of the constructor its values and where they count."""
        chosen = [means[name] for name in self._means]
        sums = [torch.where(mask, value, 0.0).sum() for value, mask in chosen]
        sums += [mask.sum() for _, mask in chosen]
        new = torch.stack([value.float() for value in sums])
        self._sums = new if self._sums is None else self._sums + new
        if self._highest:
            bounds = [(highest or {})[name] for name in self._highest]
            tops = torch.stack([torch.where(m, v, -torch.inf).amax().float() for v, m in bounds])
            self._maxima = tops if self._maxima is None else torch.maximum(self._maxima, tops)

    @torch.no_grad()
    def compute(
        self,
        gather: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> dict[str, float]:
        """Name -> value over all ranks, and start anew. A name that nothing counted for is left out.

        Args:
            gather: concatenates `[1, n]` tensors of all ranks along dim 0 (`Accelerator.gather`).
            device: where a rank that saw no batch makes its empty row.
        """
        number = len(self._means)
        sums, maxima = self._sums, self._maxima
        if sums is None:
            sums = torch.zeros(2 * number, device=device)
        if maxima is None:
            maxima = torch.full((len(self._highest),), -torch.inf, device=device)
        self._sums = self._maxima = None
        row = torch.cat([sums, maxima]).unsqueeze(0)
        rows = row if gather is None else gather(row)
        total, counts = rows[:, : 2 * number].sum(0).view(2, number)
        values = torch.cat([total / counts, rows[:, 2 * number :].amax(0)]).tolist()
        found = [*counts.tolist(), *(top > -torch.inf for top in values[number:])]
        names = (*self._means, *self._highest)
        return {name: value for name, value, some in zip(names, values, found, strict=True) if some}
