"""The reference of a run: its own model, the policy without its adapter, the untrained policy, or a cache.

The first three compute; `training.cached_reference`, the fourth, looks up what one of them
computed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from accelerate.utils import is_peft_model
from torch import Tensor

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.training.reference_pass import adapter_off, checkpointing_off, noise_off


class Reference(Protocol):
    """Gives the reference's log-probs of a batch."""

    lasts: bool
    """Whether it stays the reference while the policy is trained."""

    def logps(
        self,
        policy: Any,
        inputs: dict[str, Any],
        response_mask: Tensor,
        keys: Sequence[bytes] = (),
        *,
        again: bool = False,
    ) -> Tensor:
        """Per-token log-probs [2B, L] in float32, 0 outside the responses, without gradients.

        `policy`: the trained model, as its trainer wrapped it. `inputs`: what a model takes of the batch.
        `keys`: under which a cache holds its rows. `again`: the policy reads the same batch next.
        """
        ...


class Live:
    """The kinds that compute; each says in `_model` which model does it, and in which state."""

    lasts = True

    def __init__(self, read: ResponseLogProbs) -> None:
        self.read = read

    @contextmanager
    def _model(self, policy: Any) -> Iterator[Any]:
        raise NotImplementedError
        yield

    def logps(
        self,
        policy: Any,
        inputs: dict[str, Any],
        response_mask: Tensor,
        keys: Sequence[bytes] = (),
        *,
        again: bool = False,
    ) -> Tensor:
        with torch.no_grad(), self._model(policy) as model, checkpointing_off(model), noise_off(model):
            return self.read(model, inputs, response_mask, again=again)


class OwnModel(Live):
    """A frozen model beside the policy."""

    def __init__(self, read: ResponseLogProbs, model: Any) -> None:
        super().__init__(read)
        self._own = model

    @contextmanager
    def _model(self, policy: Any) -> Iterator[Any]:
        yield self._own


class WithoutAdapter(Live):
    """The policy with its adapter off, or with another in its place."""

    def __init__(
        self,
        read: ResponseLogProbs,
        trainer: Any,
        off: Callable[[Any], AbstractContextManager[Any]] = adapter_off,
    ) -> None:
        """`off(peft_model)`: while open, the model computes as the reference."""
        super().__init__(read)
        self._unwrap, self._off = trainer.accelerator.unwrap_model, off

    @contextmanager
    def _model(self, policy: Any) -> Iterator[Any]:
        with self._off(self._unwrap(policy)):
            yield policy


class UntrainedPolicy(Live):
    """The policy itself, which is its own reference before its first step and not later."""

    lasts = False

    @contextmanager
    def _model(self, policy: Any) -> Iterator[Any]:
        yield policy


def live_reference(trainer: Any, read: ResponseLogProbs) -> Live:
    """The reference of a trainer with a `ref_model`, an adapter, or neither: then the untrained policy."""
    if trainer.ref_model is not None:
        return OwnModel(read, trainer.ref_model)
    if is_peft_model(trainer.model):
        return WithoutAdapter(read, trainer)
    return UntrainedPolicy(read)
