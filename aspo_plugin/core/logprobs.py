"""Log-probabilities of the response tokens, the only thing a preference loss needs from a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.core.head import output_head, rows_only


class ResponseLogProbs:
    """Per-token log-probs at response positions, for a policy and its reference alike.

    `shared_prefix` is 'auto', 'true' or 'false' (see `AspoSettings`). `fallbacks` counts, by reason, the
    calls that could not take a faster way and took the plain one, whose result is the same.
    """

    def __init__(self, *, shared_prefix: str = "auto") -> None:
        self.shared_prefix = shared_prefix
        self.fallbacks: Counter[str] = Counter()

    def __call__(self, model: nn.Module, inputs: Mapping[str, Any], response_mask: Tensor) -> Tensor:
        """`log p(input_ids[b, t] | before)` where `response_mask[b, t]`, else 0: [2B, L] float32.

        `inputs` is what `model(**inputs)` takes, without labels. Differentiable where grad is enabled.
        Raises `ValueError` where a response begins at a row's first token: nothing predicts it.
        """
        input_ids = inputs["input_ids"]
        if "labels" in inputs:
            raise ValueError("inputs holds labels: the model would compute a loss over all tokens; drop them")
        if response_mask.shape != input_ids.shape:
            raise ValueError(
                f"response_mask is {tuple(response_mask.shape)}, input_ids {tuple(input_ids.shape)}"
            )
        where = response_mask.nonzero()
        batch, length = input_ids.shape
        if bool((where[:, 1] == 0).any()):
            raise ValueError("a response begins at a row's first token, which nothing predicts")
        rows = where[:, 0] * length + where[:, 1] - 1
        targets = input_ids[where[:, 0], where[:, 1]]

        head = output_head(model)
        watch = rows_only(head, rows, (batch, length)) if head is not None else nullcontext([])
        with watch as seen:
            logits = model(**inputs, use_cache=False).logits
        reason = seen[0] if seen else "the model's output layer was not found or not called"
        if reason:
            self.fallbacks[reason] += 1
        if logits.shape[:2] == (1, len(rows)) and not reason:
            logits = logits[0]
        elif logits.shape[:2] == (batch, length):
            logits = logits.flatten(0, 1)[rows]
        else:
            raise ValueError(
                f"the model returned logits of {tuple(logits.shape)} for tokens of {(batch, length)}"
            )
        logps = -nn.functional.cross_entropy(logits.float(), targets, reduction="none")
        return torch.zeros(batch, length, device=logps.device).index_put((where[:, 0], where[:, 1]), logps)
