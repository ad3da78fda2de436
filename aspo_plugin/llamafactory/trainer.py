"""The host's DPO trainer with the ASPO loss in place of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from accelerate.utils import is_peft_model
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from torch import Tensor
from transformers import Trainer

from aspo_plugin.config import AspoSettings
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.method.metrics import AspoMetrics
from aspo_plugin.reference_cache.callback import CachedReference
from aspo_plugin.reference_cache.keys import KEYS
from aspo_plugin.training.adapters import keep_input_dtype
from aspo_plugin.training.checkpoints import ExactResume
from aspo_plugin.training.dropout import disable_attention_dropout
from aspo_plugin.training.first_step import check_first_step, training_precision
from aspo_plugin.training.reference_pass import adapter_off, checkpointing_off
from aspo_plugin.training.resume import SameObjective
from aspo_plugin.training.samples import SampleLog

from .model_card import describe

SIMILARITIES = ("similarity", "rejected_similarity")
FIRST_STEP_REMEDY = (
    "Change what makes them differ, or name the reference yourself (`ref_model`, `ref_model_adapters`)."
)


class AspoTrainer(SameObjective, ExactResume, CustomDPOTrainer):
    """`get_batch_loss_metrics` computes the loss; everything else is the host's.

    Logged beside the loss: the host's `rewards/*` and `logps/*`, and `aspo/*` (see `method.metrics`). The
    host's `logits/*` are left out: they need the logits of every token, and ASPO computes those of responses.
    """

    trains_aspo = True  # `patches` lets no other DPO trainer of the host begin a `stage: aspo` run

    def __init__(
        self,
        *args: Any,
        settings: AspoSettings,
        fingerprint: dict[str, str] | None = None,
        starts_from_reference: bool = False,
        **kwargs: Any,
    ) -> None:
        """`fingerprint`: what the reference's log-probs depend on, where they are cached.

        `starts_from_reference`: the first step's margin is 0, or the run stops there.
        """
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.first_step = starts_from_reference and not self.args.neftune_noise_alpha  # not looked at yet
        disable_attention_dropout(self.model)  # the host switches off what modules hold
        keep_input_dtype(self.model)
        self.response_logps = ResponseLogProbs(
            shared_prefix=settings.shared_prefix, setting="aspo_shared_prefix"
        )
        self.cached: CachedReference | None = None
        if settings.reference_cache is not None and fingerprint is not None:
            self.cached = CachedReference(
                self,
                settings.reference_cache,
                fingerprint,
                split=self.model_inputs,
                live=self.reference_logps,
                always_live=self.ref_model is not None or is_peft_model(self.model),
            )
            self.add_callback(self.cached)
        self.aspo_metrics = {"train": AspoMetrics(), "eval": AspoMetrics()}
        self.samples = SampleLog(self, settings.log_samples)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        # DeepSpeed casts every float input to the model's dtype; bfloat16 would round the similarities.
        exact = {name: inputs.pop(name) for name in SIMILARITIES if name in inputs}
        exact = {name: value.to(self.args.device) for name, value in exact.items()}
        return {**super()._prepare_inputs(inputs), **exact}

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: Literal["train", "eval"] = "train"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and the host's metrics of it as tensors that stay on the device."""
        sentence_ids, similarity = batch["sentence_ids"], batch["similarity"]
        inputs, response_mask = self.model_inputs(batch)

        # The reference first, unlike the host: what the policy keeps for its backward pass is not there yet.
        if self.cached is not None and self.cached.filled:
            ref_logps = self.cached.logps(batch[KEYS], response_mask)
        else:
            ref_logps = self.reference_logps(model, inputs, response_mask, again=True)
        logps = self.response_logps(model, inputs, response_mask)
        if self.first_step and train_eval == "train":
            self.first_step = False
            if self.state.global_step == 0:
                check_first_step(logps, ref_logps, response_mask, training_precision(self), FIRST_STEP_REMEDY)
        chosen, rejected = logps.chunk(2)
        ref_chosen, ref_rejected = ref_logps.chunk(2)
        output = aspo_loss(
            chosen,
            rejected,
            ref_chosen,
            ref_rejected,
            sentence_ids,
            similarity,
            beta=self.beta,
            rejected_sentence_ids=batch.get("rejected_sentence_ids"),
            rejected_similarity=batch.get("rejected_similarity"),
            **self.settings.loss_options(),
        )
        losses = output.losses
        if self.bco_gemma > 1e-6:  # as in the host's DPO
            sums = [part.sum(1) for part in (chosen, rejected, ref_chosen, ref_rejected)]
            losses = (losses + self.bco_loss(*sums) * self.bco_gemma) / (1.0 + self.bco_gemma)
        if self.ftx_gamma > 1e-6:
            lengths = response_mask.chunk(2)[0].sum(1)
            losses = losses - self.ftx_gamma * chosen.sum(1) / lengths

        self.aspo_metrics[train_eval].update(output, self.response_logps.shared)
        if train_eval == "train":
            self.samples.keep(output, batch)
        margins = output.chosen_rewards - output.rejected_rewards
        prefix = "eval_" if train_eval == "eval" else ""
        metrics = {
            "rewards/chosen": output.chosen_rewards,
            "rewards/rejected": output.rejected_rewards,
            "rewards/accuracies": (margins > 0).float(),
            "rewards/margins": margins,
            "logps/chosen": chosen.detach().sum(1),
            "logps/rejected": rejected.detach().sum(1),
        }
        return losses.mean(), {prefix + name: value.mean() for name, value in metrics.items()}

    @staticmethod
    def model_inputs(batch: dict[str, Any]) -> tuple[dict[str, Any], Tensor]:
        """What the model takes of a batch, and the response tokens `[2B, L]`."""
        others = ("sentence_ids", "rejected_sentence_ids", *SIMILARITIES, "labels", KEYS)
        inputs = {key: value for key, value in batch.items() if key not in others}
        return inputs, batch["labels"] != IGNORE_INDEX

    def reference_logps(
        self, model: Any, inputs: dict[str, Any], response_mask: Tensor, again: bool = False
    ) -> Tensor:
        """Per-token log-probs of the reference: the model given, or the policy without its adapter.

        With a cache and neither of the two it is the policy itself, before its first step. `again`: the
        policy's come next.
        """
        reference = model if self.ref_model is None else self.ref_model
        context: AbstractContextManager[None] = nullcontext()
        if self.ref_model is None and (self.cached is None or is_peft_model(self.model)):
            context = adapter_off(self.accelerator.unwrap_model(model))
        with torch.no_grad(), checkpointing_off(reference), context:
            return self.response_logps(reference, inputs, response_mask, again=again)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Loss and metrics of an evaluation batch; there are no logits to hand back."""
        loss, _, _ = super().prediction_step(model, inputs, True, ignore_keys)
        return loss, None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what ASPO measured since the last time; every rank calls this at the same steps."""
        if "loss" in logs:
            logs.update(self._measured("train", ""))
        elif any(name.startswith("eval_") for name in logs):
            logs.update(self._measured("eval", "eval_"))
        super().log(logs, *args, **kwargs)

    def _measured(self, train_eval: str, prefix: str) -> dict[str, float]:
        return self.aspo_metrics[train_eval].compute(
            self.accelerator.gather, self.accelerator.device, prefix + "aspo/"
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card of `transformers` (TRL's would call this run DPO), with a section on ASPO."""
        if not self.args.push_to_hub:
            kwargs.setdefault("license", "other")  # else the card looks for the base model's on the Hub
        Trainer.create_model_card(self, *args, **kwargs)
        if self.is_world_process_zero():
            describe(self.args.output_dir, self.finetuning_args, self.settings)
