"""The host's DPO trainer with the ASPO loss in place of its own."""

from __future__ import annotations

from typing import Any, Literal

from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.train.dpo.trainer import CustomDPOTrainer
from torch import Tensor
from transformers import Trainer

from aspo_plugin.config import AspoSettings
from aspo_plugin.method.metrics import reward_values
from aspo_plugin.training.checkpoints import ExactResume
from aspo_plugin.training.dropout import disable_attention_dropout
from aspo_plugin.training.first_step import FirstStep
from aspo_plugin.training.hub_push import PrivateFilesStay
from aspo_plugin.training.resume import SameObjective
from aspo_plugin.training.start import StartLine
from aspo_plugin.training.step import AspoStep, ExactSimilarities

from .arguments import PREFIX
from .model_card import describe

FIRST_STEP_REMEDY = (
    "Change what makes them differ, or name the reference yourself (`ref_model`, `ref_model_adapters`)."
)


class AspoTrainer(SameObjective, ExactResume, ExactSimilarities, PrivateFilesStay, CustomDPOTrainer):
    """`get_batch_loss_metrics` computes the loss; everything else is the host's.

    Logged beside the loss: the host's `rewards/*` and `logps/*`, and `aspo/*` (see `method.metrics`). The
    host's `logits/*` are left out: they need the logits of every token, and ASPO computes those of responses.
    """

    _evaluated_as = "eval"
    trains_aspo = True  # `patches` lets no other DPO trainer of the host begin a `stage: aspo` run

    def __init__(
        self,
        *args: Any,
        settings: AspoSettings,
        fingerprint: dict[str, str] | None = None,
        starts_from_reference: bool = False,
        scorers: list[str] | None = None,
        template: str | None = None,
        **kwargs: Any,
    ) -> None:
        """`fingerprint`: what the reference's log-probs depend on, where they are cached.

        `starts_from_reference`: the first step's margin is 0, or the run stops there. `scorers`: what is
        known to have scored the sentences. `template`: the host's name of it, for the record.
        """
        super().__init__(*args, **kwargs)
        self.settings = settings
        disable_attention_dropout(self.model)  # the host switches off what modules hold
        sure = starts_from_reference and not self.args.neftune_noise_alpha
        StartLine(self, settings, "chosen_sentence_ids", scorers or [], template)
        self.aspo = AspoStep(
            self,
            settings,
            beta=self.beta,
            setting_name=PREFIX + "{}",
            marks="labels",
            nothing=IGNORE_INDEX,
            first_step=FirstStep(self, "sure" if sure else "", FIRST_STEP_REMEDY),
            fingerprint=fingerprint,
        )

    def get_batch_loss_metrics(
        self, model: Any, batch: dict[str, Any], train_eval: Literal["train", "eval"] = "train"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of a batch, and the host's metrics of it as tensors that stay on the device."""
        step = self.aspo(model, batch, train_eval)
        losses = step.output.losses
        if self.bco_gemma > 1e-6:  # as in the host's DPO
            log_probs = (step.chosen, step.rejected, step.ref_chosen, step.ref_rejected)
            bco = self.bco_loss(*(part.sum(1) for part in log_probs))
            losses = (losses + bco * self.bco_gemma) / (1.0 + self.bco_gemma)
        if self.ftx_gamma > 1e-6:
            lengths = step.response_mask.chunk(2)[0].sum(1)
            losses = losses - self.ftx_gamma * step.chosen.sum(1) / lengths
        prefix = f"{self._evaluated_as}_" if train_eval == "eval" else ""
        metrics = reward_values(step.output, step.chosen, step.rejected)
        return losses.mean(), {prefix + name: value.mean() for name, value in metrics.items()}

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Loss and metrics of an evaluation batch; there are no logits to hand back."""
        loss, _, _ = super().prediction_step(model, inputs, True, ignore_keys)
        return loss, None, None

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The metrics of a set bear its name where there are several, as its loss does."""
        self._evaluated_as = metric_key_prefix
        found: dict[str, float] = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        return found

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what ASPO measured since the last time; every rank calls this at the same steps."""
        if "loss" in logs:
            logs.update(self._measured("train", ""))
        elif any(name.startswith("eval_") for name in logs):
            logs.update(self._measured("eval", f"{self._evaluated_as}_"))
        super().log(logs, *args, **kwargs)

    def _measured(self, train_eval: str, prefix: str) -> dict[str, float]:
        return self.aspo.metrics[train_eval].compute(
            self.accelerator.gather, self.accelerator.device, prefix + "aspo/"
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """The card of `transformers` (TRL's would call this run DPO), with a section on ASPO."""
        if not self.args.push_to_hub:
            kwargs.setdefault("license", "other")  # else the card looks for the base model's on the Hub
        Trainer.create_model_card(self, *args, **kwargs)
        if self.is_world_process_zero():
            describe(self.args.output_dir, self.finetuning_args, self.settings)
