"""What a batch goes through in every host: reference, policy, loss, metrics, samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from aspo_plugin.config import AspoSettings
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.method.loss import AspoOutput, aspo_loss
from aspo_plugin.method.metrics import AspoMetrics
from aspo_plugin.reference_cache.keys import KEYS
from aspo_plugin.training.adapters import keep_input_dtype
from aspo_plugin.training.cached_reference import CachedReference
from aspo_plugin.training.first_step import FirstStep
from aspo_plugin.training.reference import Live, Reference, live_reference
from aspo_plugin.training.samples import SampleLog

SIMILARITIES = ("similarity", "rejected_similarity")
_NOT_INPUTS = {"sentence_ids", "rejected_sentence_ids", *SIMILARITIES, KEYS}


class Outcome(NamedTuple):
    """Of one batch: what `aspo_loss` gave, and the log-probs and response tokens that it was given.

    The four log-probs are `[B, L]`, `response_mask` is `[2B, L]`.
    """

    output: AspoOutput
    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    response_mask: Tensor


class AspoStep:
    """One step of ASPO for a trainer of `transformers`, called with each of its batches.

    A batch is what the hosts' collators make: rows `[chosen..., rejected...]`, `sentence_ids` and
    `similarity` of the chosen (and of the rejected, where they are weighted), the inputs of the model, the
    cache's keys, and a tensor that marks response tokens.
    """

    def __init__(
        self,
        trainer: Any,
        settings: AspoSettings,
        *,
        beta: float,
        setting_name: str,
        marks: str,
        nothing: Any,
        first_step: FirstStep,
        live: Callable[[ResponseLogProbs], Live] | None = None,
        fingerprint: Mapping[str, str] | None = None,
    ) -> None:
        """For a trainer that is otherwise complete.

        `setting_name`: how the host's user writes a setting. `marks`: key of the tensor [2B, L] that is
        `nothing` outside the responses. `live(read)`: the reference, where `live_reference` does not find it.
        `fingerprint`: what its log-probs depend on; with it they come from the settings' cache.

        Raises `ValueError` where nothing stays the reference while the policy is trained.
        """
        self.settings = settings
        self._beta, self._marks, self._nothing = beta, marks, nothing
        keep_input_dtype(trainer.model)
        self.read = ResponseLogProbs(
            shared_prefix=settings.shared_prefix, setting=setting_name.format("shared_prefix")
        )
        computed = live(self.read) if live else live_reference(trainer, self.read)
        self.reference: Reference = computed
        if settings.reference_cache is not None and fingerprint is not None:
            self.reference = CachedReference(
                trainer, settings.reference_cache, fingerprint, self.split, computed
            )
            trainer.add_callback(self.reference)
        elif not computed.lasts:
            raise ValueError(
                "all of the model is trained and there is no reference model: give one, train an adapter, or "
                f"set {setting_name.format('reference_cache')}."
            )
        self.metrics = {mode: AspoMetrics() for mode in ("train", "eval")}
        self._samples = SampleLog(trainer, settings.log_samples)
        self._first_step = first_step

    def split(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """What the model takes of a batch, and where its response tokens are, `[2B, L]` bool."""
        inputs = {k: value for k, value in batch.items() if k not in _NOT_INPUTS and k != self._marks}
        return inputs, batch[self._marks] != self._nothing

    def __call__(self, model: Any, batch: dict[str, Any], mode: str) -> Outcome:
        """`mode`: "train" or "eval". The losses are differentiable where grad is enabled."""
        inputs, mask = self.split(batch)
        # The reference first: what the policy keeps for its backward pass is not there yet.
        reference = self.reference.logps(model, inputs, mask, batch.get(KEYS, ()), again=True)
        policy = self.read(model, inputs, mask)
        if mode == "train":
            self._first_step.check(policy, reference, mask)
        output = loss_of(policy, reference, batch, self.settings, self._beta)
        self.metrics[mode].update(output, self.read.shared)
        if mode == "train":
            self._samples.keep(output, batch)
        chosen, rejected = policy.chunk(2)
        ref_chosen, ref_rejected = reference.chunk(2)
        return Outcome(output, chosen, rejected, ref_chosen, ref_rejected, mask)


def loss_of(
    policy: Tensor, reference: Tensor, batch: Mapping[str, Any], settings: AspoSettings, beta: float
) -> AspoOutput:
    """`aspo_loss` of a collator's batch, from the log-probs `[2B, L]` of policy and reference."""
    chosen, rejected = policy.chunk(2)
    ref_chosen, ref_rejected = reference.chunk(2)
    return aspo_loss(
        chosen,
        rejected,
        ref_chosen,
        ref_rejected,
        batch["sentence_ids"],
        batch["similarity"],
        beta=beta,
        rejected_sentence_ids=batch.get("rejected_sentence_ids"),
        rejected_similarity=batch.get("rejected_similarity"),
        **settings.loss_options(),
    )


class ExactSimilarities:
    """For trainers of `transformers`, before the trainer class in the bases.

    DeepSpeed casts every float input to the model's dtype; bfloat16 would round the similarities.
    """

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        exact = {name: inputs.pop(name) for name in SIMILARITIES if name in inputs}
        exact = {name: value.to(self.args.device) for name, value in exact.items()}  # type: ignore[attr-defined]
        return {**super()._prepare_inputs(inputs), **exact}  # type: ignore[misc]
