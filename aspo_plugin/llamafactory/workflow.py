"""One `stage: aspo` run, from checked arguments to a saved model: what the host's `run_dpo` is to DPO."""

from __future__ import annotations

from typing import Any

from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.extras.constants import IGNORE_INDEX
from llamafactory.extras.misc import calculate_tps
from llamafactory.extras.ploting import plot_loss
from llamafactory.model import load_config, load_model, load_tokenizer
from llamafactory.train.trainer_utils import create_ref_model

from aspo_plugin.training.model_needs import name_missing_packages, refuse_broken
from aspo_plugin.training.refused_rows import RefusedRows
from aspo_plugin.training.resume import check_resumed, objective

from .arguments import PREFIX, settings_of
from .checks import check_data, check_run, tell_start
from .collator import SentencePairCollator
from .contract import check_host, host_version, sentence_data
from .datasets import SentenceData
from .model_card import TAGS, dataset_sources, save_args, scorer_names, scorers
from .reference_fingerprint import reference_fingerprint, reference_name
from .trainer import AspoTrainer


def run_aspo(
    model_args: Any,
    data_args: Any,
    training_args: Any,
    finetuning_args: Any,
    callbacks: list[Any] | None = None,
) -> None:
    """Train and evaluate as the arguments say. Wrong combinations raise `ValueError` before a model loads."""
    check_host()
    settings = settings_of(finetuning_args)
    check_run(model_args, data_args, training_args, finetuning_args, settings)
    learns = objective(
        settings,
        PREFIX + "{}",
        **{key: getattr(finetuning_args, key) for key in ("pref_beta", "pref_ftx", "pref_bco_weight")},
        reference=reference_name(model_args, finetuning_args),
        scorer=scorers(data_args),
    )
    if training_args.do_train and training_args.resume_from_checkpoint:
        check_resumed(training_args.resume_from_checkpoint, learns)
    from_reference = tell_start(model_args, training_args, finetuning_args)

    if data_args.streaming:
        # Dispatching would cut a batch of pairs between processes by rows; each reads its own rows instead.
        training_args.accelerator_config.dispatch_batches = False

    refuse_broken(load_config(model_args))
    tokenizer_module = load_tokenizer(model_args)
    tokenizer = tokenizer_module["tokenizer"]
    if tokenizer_module["processor"] is None:  # the host logs why, and goes on
        name_missing_packages(model_args.model_name_or_path, trust_remote_code=model_args.trust_remote_code)
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    main = training_args.process_index == 0
    sentences = SentenceData(settings, RefusedRows(training_args.output_dir), model_args.cache_dir)
    if main:
        sentences.refused_rows.clear()
    with sentence_data(sentences):
        dataset_module = get_dataset(
            template, model_args, data_args, training_args, stage="rm", **tokenizer_module
        )
    check_data(dataset_module, data_args.tokenized_path, settings)
    scored_by = scorer_names(data_args, settings)
    if data_args.tokenized_path is not None:
        sentences.check_scorers(data_args.tokenized_path, scored_by)
        if main:
            sentences.remember(data_args.tokenized_path, scored_by)

    cached = settings.reference_cache is not None and training_args.do_train
    model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    # PEFT's model card takes its tags from here.
    (model.get_base_model() if hasattr(model, "get_base_model") else model).add_model_tags(TAGS)
    collator = SentencePairCollator(
        template=template,
        model=model,
        pad_to_multiple_of=8,
        label_pad_token_id=IGNORE_INDEX,
        reference_keys=cached,
        weight_rejected=settings.weight_rejected,
        **tokenizer_module,
    )
    if finetuning_args.ref_model is None and not training_args.do_train:
        ref_model = model  # nothing was trained: policy and reference are one
    elif finetuning_args.ref_model is None and cached:
        ref_model = None  # the cache is filled from the policy before its first step
    else:
        ref_model = create_ref_model(model_args, finetuning_args)
    same = ref_model is model

    trainer = AspoTrainer(
        settings=settings,
        starts_from_reference=from_reference,
        scorers=scored_by,
        template=data_args.template,
        fingerprint=reference_fingerprint(
            model_args, data_args, training_args, finetuning_args, tokenizer_module
        )
        if cached
        else None,
        model=model,
        ref_model=ref_model,
        args=training_args,
        finetuning_args=finetuning_args,
        data_collator=collator,
        callbacks=callbacks,
        **dataset_module,
        **tokenizer_module,
    )
    del ref_model  # the trainer's alone: it lets it go once a reference cache is filled
    trainer.follow(learns)
    sources = dataset_sources(data_args)
    if trainer.is_world_process_zero():
        save_args(training_args.output_dir, finetuning_args, host_version(), sentences.counts, sources)
    if training_args.do_train:
        _train(trainer, dataset_module, training_args, finetuning_args)
    if training_args.do_eval:
        _evaluate(trainer, rewards=not same)
    if data_args.streaming and data_args.tokenized_path is None and main:
        # Only now are the stream's refused rows known.
        counts = sentences.refused_rows.counts()
        save_args(training_args.output_dir, finetuning_args, host_version(), counts, sources)
    _write_card(trainer, model_args, data_args, training_args, finetuning_args)


def _train(trainer: Any, dataset_module: dict[str, Any], training_args: Any, finetuning_args: Any) -> None:
    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    if finetuning_args.include_effective_tokens_per_second:
        result.metrics["effective_tokens_per_sec"] = calculate_tps(
            dataset_module["train_dataset"], result.metrics, stage="rm"
        )
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    if trainer.is_world_process_zero() and finetuning_args.plot_loss:
        evaluated = dataset_module.get("eval_dataset")
        names = [f"eval_{name}_loss" for name in evaluated] if isinstance(evaluated, dict) else ["eval_loss"]
        shown = ["loss", "rewards/accuracies", "rewards/margins", "aspo/lowest_similarity_weight_share"]
        plot_loss(training_args.output_dir, keys=[*shown, *names])


def _evaluate(trainer: Any, rewards: bool) -> None:
    metrics = trainer.evaluate(metric_key_prefix="eval")
    if not rewards:  # policy and reference are one model, so every reward is 0
        metrics = {name: value for name, value in metrics.items() if "rewards" not in name}
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)


def _write_card(
    trainer: Any, model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any
) -> None:
    if not training_args.do_train:
        return
    values: dict[str, Any] = {
        "tasks": "text-generation",
        "finetuned_from": model_args.model_name_or_path,
        "tags": ["llama-factory", finetuning_args.finetuning_type, *TAGS],
    }
    if data_args.dataset is not None:
        values["dataset"] = data_args.dataset
    if training_args.push_to_hub:
        trainer.push_to_hub(**values)
    else:
        trainer.create_model_card(**values)
