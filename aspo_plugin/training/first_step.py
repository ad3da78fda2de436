"""A run that starts from its reference has margin 0 in its first step, or it learns against another model.

An adapter whose initialisation rewrites the base, dropout that stayed on, noise, new random weights: each
makes "the policy before training" another model than the reference, and nothing else tells.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from aspo_plugin.logprobs.self_check import most_of_ranks, weight_dtype

logger = logging.getLogger(__name__)

# Root mean square of the difference per token, in nats, that rounding may make of log-probs of the size of 1;
# with float32 a GPU may multiply in TF32. Several times as much is no rounding.
ROUNDING = {torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
SEVERAL = 4.0

_REASONS = (
    "Reasons are an adapter that rewrites the base as it begins (PiSSA, OLoRA, CorDA, EVA, LoftQ) or that "
    "was trained before, dropout or noise that stays on, new weights drawn at random (a larger vocabulary), "
    "and a reference loaded in another precision or quantisation."
)


class FirstStepError(RuntimeError):
    """Policy and reference differ before anything was trained."""


def training_precision(trainer: Any) -> torch.dtype:
    """What a trainer of `transformers` computes a forward in."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(trainer.accelerator.mixed_precision)
    return mixed or weight_dtype(trainer.model)


class FirstStep:
    """Looks at a run's first trained batch, once, where the run starts from its reference."""

    def __init__(self, trainer: Any, starts: str, remedy: str) -> None:
        """`starts`: how sure it is that the policy begins as its reference: "sure", "likely" (two models of
        one name), or "" where it does not, or noise and dropout tell them apart anyway.
        `remedy`: what a user of this host changes.
        """
        self._trainer, self._starts, self._remedy = trainer, starts, remedy

    def check(self, policy: Tensor, reference: Tensor, response_mask: Tensor) -> None:
        """`check_first_step` in the first step, which stops the run only where `starts` was "sure"."""
        starts, self._starts = self._starts, ""
        if starts and self._trainer.state.global_step == 0:
            precision = training_precision(self._trainer)
            stop = starts == "sure"
            check_first_step(policy, reference, response_mask, precision, self._remedy, stop=stop)


def check_first_step(
    policy: Tensor,
    reference: Tensor,
    response_mask: Tensor,
    precision: torch.dtype,
    remedy: str,
    *,
    stop: bool = True,
) -> None:
    """Compare the log-probs [2B, L] of the first batch, where policy and reference should be one model.

    `precision`: what the model computes in. `remedy`: what a user of this host changes. A difference beyond
    rounding is a warning, several times as much raises `FirstStepError` on every rank (`stop`), or is a
    warning too. Waits for the device, once.
    """
    with torch.no_grad():
        live = reference[response_mask].float()
        rms = [value.square().mean().sqrt() for value in (policy[response_mask].float() - live, live)]
        difference, size = torch.stack(rms).tolist()
    limit = ROUNDING.get(precision, ROUNDING[torch.float32]) * max(1.0, size)
    # Not a number is no agreement either.
    kind = 0 if difference <= limit else 1 if difference <= SEVERAL * limit else 2
    kind = most_of_ranks(kind, policy.device)
    if not kind:
        return
    message = (
        "the run starts from its reference, so that policy and reference should agree in the first step, but "
        f"their log-probs differ by {difference:.2e} per token on this rank (rounding: {limit:.2e}), and it "
        f"would learn against another model. {_REASONS} {remedy}"
    )
    if kind > 1 and stop:
        raise FirstStepError(message)
    logger.warning("%s", message)
