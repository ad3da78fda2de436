"""`AspoTrainer`: TRL's `DPOTrainer` whose loss is ASPO's."""

from __future__ import annotations

import logging
import textwrap
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import AutoProcessor, set_seed
from trl import DPOTrainer
from trl.trainer.utils import get_config_model_id

from aspo_plugin.method.metrics import REWARDS, reward_values
from aspo_plugin.method.running import RunningMeans
from aspo_plugin.training.checkpoints import ExactResume
from aspo_plugin.training.dropout import disable_attention_dropout
from aspo_plugin.training.first_step import FirstStep
from aspo_plugin.training.hub_push import PrivateFilesStay
from aspo_plugin.training.model_needs import missing_packages_named
from aspo_plugin.training.refused_rows import RefusedRows, refused_line
from aspo_plugin.training.resume import SameObjective, objective
from aspo_plugin.training.rewritten_base import rewrites_base, wrong_reference
from aspo_plugin.training.start import StartLine
from aspo_plugin.training.step import AspoStep, ExactSimilarities

from .arguments import AspoConfig, refuse_options, settings_of
from .collator import AspoVisionCollator
from .datasets import (
    COLUMNS,
    REJECTED_COLUMNS,
    end_of_turn_missing,
    is_prepared,
    mixes_images,
    prepare_dataset,
    refuse_plain_dpo,
)
from .reference_cache import fingerprint, no_reference_copy, reference
from .rows import LengthLimit
from .similarity import dataset_scorer

logger = logging.getLogger(__name__)

_TITLE = "ASPO: Adaptive Sentence-Level Preference Optimization for Fine-Grained Multimodal Reasoning"
_FIRST_STEP_REMEDY = "Begin with a new adapter, or name the model that the run starts from as its reference."


class AspoMixin(
    SameObjective,
    ExactResume,
    ExactSimilarities,
    PrivateFilesStay,
    DPOTrainer if TYPE_CHECKING else object,  # type: ignore[misc]
):
    """What ASPO changes in a `DPOTrainer`, for TRL's own and for hosts' subclasses of it.

    The datasets may be prepared (`prepare_dataset`) or not. The logs have TRL's `rewards/*` and `logps/*`,
    and `aspo/*` of `method.metrics`; TRL's entropy, logits and token accuracy need logits that no one makes.
    """

    _setting_name = "aspo_{}"  # how the host's user writes a setting
    # Where a user sets what an answer ends with.
    _template_remedy = (
        "set processing_class.chat_template to one that writes eos_token behind the assistant's text"
    )
    _evaluated = "eval"  # the prefix of an evaluation's metrics
    _tag_names = ["trl", "aspo"]
    _name = "ASPO"
    _paper = {
        "title": _TITLE,
        "id": "2505.19100",
        "citation": textwrap.dedent("""\
            @inproceedings{aspo2025,
                title     = {{ASPO: Adaptive Sentence-Level Preference Optimization
                             for Fine-Grained Multimodal Reasoning}},
                booktitle = {Findings of the Association for Computational Linguistics: ACL 2025},
                year      = 2025,
                note      = {arXiv:2505.19100},
            }"""),
    }

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        compute_metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        model_id = model if isinstance(model, str) else get_config_model_id(model.config)
        if args is None:
            args = AspoConfig(f"{model_id.split('/')[-1]}-ASPO")
        if compute_metrics is not None:
            raise ValueError(
                "compute_metrics needs logits, which ASPO never makes: read the logged metrics instead."
            )
        refuse_options(args)
        if not isinstance(model, str) and len(set(getattr(model, "hf_device_map", {}).values())) < 2:
            _refuse_copies(args)
        self.aspo_settings = settings_of(args)
        if ref_model is None:
            _refuse_rewritten_base(model, kwargs.get("peft_config"))
        if processing_class is None:
            with missing_packages_named(model_id):
                named = (args.model_init_kwargs or {}) if isinstance(model, str) else {}
                processing_class = AutoProcessor.from_pretrained(
                    model_id,
                    trust_remote_code=args.trust_remote_code,
                    revision=named.get("revision", "main"),
                )
        self._aspo_limit = LengthLimit(args.max_length)
        self._refused = RefusedRows(args.output_dir)
        datasets = {"train": train_dataset, "eval": eval_dataset}
        if args.process_index == 0 and not all(map(is_prepared, _parts(*datasets.values()))):
            self._refused.clear()
        with args.main_process_first(desc="preparing the pairs"):
            train, evaluation = (self._prepare(datasets[k], processing_class, args, k) for k in datasets)
        refuse_plain_dpo(train, self.aspo_settings, self._setting_name)
        if args.process_index == 0:
            self._tell_open_ends(train, processing_class)
        set_seed(args.seed)  # `Trainer` does so too late for the weights of a new adapter
        cached = self.aspo_settings.reference_cache is not None
        with no_reference_copy(model) if cached else nullcontext():
            super().__init__(
                model=model,
                ref_model=ref_model,
                args=args,
                data_collator=data_collator
                or AspoVisionCollator(processing_class, cached, self.aspo_settings.weight_rejected),
                train_dataset=train,
                eval_dataset=evaluation,
                processing_class=processing_class,
                **kwargs,
            )
        _refuse_copies(self.args)
        self._expect_images(train, evaluation)
        if self.args.disable_dropout:
            disable_attention_dropout(self.model)  # the reference is not in training
        StartLine(self, self.aspo_settings, "sentence_ids", self._scorer_names())
        self._aspo = AspoStep(
            self,
            self.aspo_settings,
            beta=self.beta,
            setting_name=self._setting_name,
            marks="completion_mask",
            nothing=0,
            first_step=FirstStep(self, self._starts_from(ref_model), _FIRST_STEP_REMEDY),
            live=partial(reference, self),
            fingerprint=fingerprint(self) if cached else None,
        )
        self._rewards = {mode: RunningMeans(REWARDS) for mode in ("train", "eval")}
        more = {"beta": self.beta, "reference": self._reference_name(), **self._scored_by()}
        self.follow(objective(self.aspo_settings, self._setting_name, **more))

    def _reference_name(self) -> str:
        """How a reader knows the reference, wherever its folder lies."""
        model = self.model if self.ref_model is None else self.accelerator.unwrap_model(self.ref_model)
        return Path(get_config_model_id(model.config)).name

    def _starts_from(self, ref_model: Any) -> str:
        """How sure it is that the policy begins as its reference: "sure", "likely" (two models of one name),
        or "" where it does not, or noise and dropout tell them apart anyway."""
        if self.args.neftune_noise_alpha or not self.args.disable_dropout:
            return ""
        if ref_model is None:
            return "sure"
        given = ref_model if isinstance(ref_model, str) else get_config_model_id(ref_model.config)
        return "likely" if given == get_config_model_id(self.model.config) else ""

    def _prepare(
        self, dataset: Any, processing_class: Any, args: Any, name: str, part_of: str | None = None
    ) -> Any:
        if dataset is None:
            return None
        if isinstance(dataset, dict):
            return {
                key: self._prepare(value, processing_class, args, key, name) for key, value in dataset.items()
            }
        return prepare_dataset(
            dataset,
            processing_class,
            alpha=self.aspo_settings.alpha,
            limit=self._aspo_limit,
            name=f"the {name} dataset",
            num_proc=args.dataset_num_proc,
            score=self._scorer(),
            weight_rejected=self.aspo_settings.weight_rejected,
            given=self.aspo_settings.weighting == "given",
            refused=partial(self._refuse, "training" if (part_of or name) == "train" else "evaluation")
            if args.process_index == 0
            else None,
        )

    def _tell_open_ends(self, dataset: Any, processing_class: Any) -> None:
        if isinstance(dataset, Dataset) and (end := end_of_turn_missing(dataset, processing_class)):
            logger.warning(
                "responses end without an end-of-turn token (one ends with %r), so the model learns no end "
                "of its answers. The chat template writes none: %s.",
                end,
                self._template_remedy,
            )

    def _refuse(self, split: str, rows: list[dict[str, Any]]) -> None:
        self._refused.add(refused_line(row, split, self._aspo_limit.name) for row in rows)
        logger.warning("each pair that is left out is listed in %s", self._refused.path)

    def _expect_images(self, *datasets: Any) -> None:
        """Where processes must all run the vision tower, or none, a batch without images gets a blank one.

        A sharded model gathers its weights layer by layer, so a process that left some out would stop all
        others; DDP waits the same way for gradients, unless it is told to find those that are missing.
        """
        collator, args = self.data_collator, self.args
        if args.world_size == 1 or not isinstance(collator, AspoVisionCollator):
            return
        finds = args.ddp_find_unused_parameters
        if finds is None:  # the default of `Trainer`
            finds = is_peft_model(self.model) or not args.gradient_checkpointing
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        if (sharded or not finds) and any(map(mixes_images, _parts(*datasets))):
            collator.use_placeholder()

    def _scorer(self) -> Any:
        model = self.aspo_settings.similarity_model
        return dataset_scorer(model) if model else None

    def _scorer_names(self) -> list[str]:
        """What is known to have scored the sentences."""
        model = self.aspo_settings.similarity_model
        return [model] if model else []

    def _scored_by(self) -> dict[str, Any]:
        """What else decides the similarities, to be compared where a run resumes."""
        return {}

    def _prepare_dataset(self, dataset: Any, processing_class: Any, args: Any, dataset_name: str) -> Any:
        return self._prepare(dataset, processing_class, args, dataset_name)

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:  # type: ignore[has-type]
            self._signature_columns = ["images", *COLUMNS, *REJECTED_COLUMNS]

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> Any:
        if isinstance(eval_dataset, Dataset | dict):
            eval_dataset = self._prepare(eval_dataset, self.processing_class, self.args, metric_key_prefix)
            self._expect_images(eval_dataset)
        self._evaluated = metric_key_prefix
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Any:
        mode = "train" if self.model.training else "eval"
        step = self._aspo(model, inputs, mode)
        values = reward_values(step.output, step.chosen, step.rejected)
        every = torch.ones_like(step.output.losses, dtype=torch.bool)
        self._rewards[mode].update({name: (value, every) for name, value in values.items()})
        loss = step.output.losses.mean()
        return (loss, {}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Every rank calls this at each logging step: the one place where metrics are gathered."""
        mode = "train" if self.model.training else "eval"
        gather, device = self.accelerator.gather, self.accelerator.device
        values = self._rewards[mode].compute(gather, device)
        values |= self._aspo.metrics[mode].compute(gather, device)
        prefix = "" if mode == "train" else f"{self._evaluated}_"
        logs.update({prefix + name: value for name, value in values.items()})
        super().log(logs, start_time)


def _refuse_copies(args: Any) -> None:
    """Raise `ValueError` where `Trainer` would train copies of the model in one process."""
    if args.n_gpu > 1:
        raise ValueError(
            f"this one process sees {args.n_gpu} GPUs, and DataParallel cannot share images between the "
            "copies of a model: start with `accelerate launch` or `torchrun`, or show it one GPU "
            "(CUDA_VISIBLE_DEVICES=0)."
        )


def _refuse_rewritten_base(model: Any, peft_config: Any) -> None:
    """Raise `ValueError` where the base model without its adapter would be a wrong reference.

    Of a given adapter TRL adds a frozen copy, whose initialisation would rewrite the base once more.
    """
    configs = [peft_config] if peft_config is not None else getattr(model, "peft_config", {}).values()
    for config in configs:
        init = getattr(config, "init_lora_weights", None)
        if rewrites_base(init):
            raise wrong_reference(init, "init_lora_weights")


def _parts(*datasets: Any) -> list[Any]:
    """The datasets that are there; several may stand in a dict."""
    parts = [part for data in datasets for part in (data.values() if isinstance(data, dict) else [data])]
    return [part for part in parts if part is not None]


class AspoTrainer(AspoMixin, DPOTrainer):
    """`DPOTrainer` with the ASPO loss. Takes the same arguments, with an `AspoConfig`."""
