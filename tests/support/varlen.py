"""What the flash kernel computes, one problem after the other by plain attention: exact, for any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from aspo_plugin.logprobs.varlen import Problems


def one_by_one(
    query: Tensor, key: Tensor, value: Tensor, problems: Problems, scale: float, window: int | None
) -> Tensor:
    """A `varlen.Kernel` by the definition of `Problems`, in the arguments' type."""
    found = []
    borders = [ends.tolist() for ends in (problems.query_ends, problems.key_ends)]
    for (q0, q1), (k0, k1) in zip(*(zip(b, b[1:], strict=False) for b in borders), strict=True):
        assert (q1 - q0) <= problems.longest[0] and (k1 - k0) <= problems.longest[1]
        # Aligned at the lower right: the last query stands where the last key stands.
        distance = torch.arange(q1 - q0)[:, None] + (k1 - k0) - (q1 - q0) - torch.arange(k1 - k0)
        sees = torch.ones_like(distance, dtype=torch.bool)
        if problems.causal:
            sees &= distance >= 0
        if window is not None:
            sees &= distance < window
        heads = (x.transpose(0, 1)[None] for x in (query[q0:q1], key[k0:k1], value[k0:k1]))
        out = F.scaled_dot_product_attention(
            *heads, attn_mask=sees.to(query.device), scale=scale, enable_gqa=True
        )
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)
