"""Settings that cannot train ASPO, refused before a model loads."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

from aspo_plugin.config import AspoSettings, check_beta
from aspo_plugin.training.given_numbers import no_numbers

TRUE_WORDS = ("1", "true", "y", "yes")


def _warn(text: str) -> None:
    # Not at the top: `transformers`, which it needs, may be the one that imports torch, and torch us.
    from llamafactory.extras import logging

    logging.get_logger("llamafactory.aspo").warning_rank0(text)


def _fail_on(refused: list[tuple[bool, str]]) -> None:
    for wrong, message in refused:
        if wrong:
            raise ValueError(message)


def check_stage_fields(args: Any) -> None:
    """What the finetuning arguments alone tell. Raises `ValueError`."""
    check_beta(args.pref_beta, "`pref_beta`")
    _fail_on(
        [
            (
                args.pref_loss != "sigmoid",
                f"`pref_loss: {args.pref_loss}` is another method's loss, while ASPO's is a sigmoid one: "
                "remove `pref_loss` from the recipe (or train `stage: dpo`).",
            ),
            (
                args.dpo_label_smoothing != 0,
                f"`dpo_label_smoothing: {args.dpo_label_smoothing}` is not defined for ASPO: remove it.",
            ),
            (
                args.ld_alpha is not None,
                f"`ld_alpha: {args.ld_alpha}` weights tokens by their position, ASPO by their sentence; "
                "the two are not defined together: remove `ld_alpha`.",
            ),
            (
                args.use_mca or os.environ.get("USE_MCA", "0").lower() in TRUE_WORDS,
                "`use_mca` (USE_MCA=1) trains with Megatron's own DPO loss and would bypass ASPO: "
                "unset USE_MCA and remove `use_mca`.",
            ),
            (
                os.environ.get("USE_MEGATRON_BRIDGE", "0").lower() in TRUE_WORDS,
                "USE_MEGATRON_BRIDGE=1 trains with Megatron Bridge, which has no preference training: "
                "unset USE_MEGATRON_BRIDGE.",
            ),
            (
                bool(getattr(args, "use_hyper_parallel", False)),
                "`use_hyper_parallel` only serves `stage: sft` and would have no effect: remove it.",
            ),
        ]
    )


# Keys of the host that another stage or another loss reads: a preference step does not.
NO_EFFECT = {
    "data": ("packing",),
    "model": ("shift_attn", "moe_aux_loss_coef"),
    "training": ("fp8", "label_smoothing_factor", "do_predict"),
    "finetuning": (
        "use_dft_loss",
        "use_asft_loss",
        "use_eaft_loss",
        "compute_accuracy",
        "simpo_gamma",
        "kto_chosen_weight",
        "kto_rejected_weight",
        "reward_model",
        "ppo_score_norm",
        "ppo_whiten_rewards",
    ),
}


def idle_keys(model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any) -> list[str]:
    """The keys of the recipe that change nothing in an ASPO run."""
    groups = {
        "data": data_args,
        "model": model_args,
        "training": training_args,
        "finetuning": finetuning_args,
    }
    found = []
    for group, args in groups.items():
        defaults = {field.name: field.default for field in dataclasses.fields(args)}
        for name in NO_EFFECT[group]:
            value = getattr(args, name, None)
            if value and value != defaults.get(name):
                found.append(name)
    return found


def tell_start(model_args: Any, training_args: Any, finetuning_args: Any) -> bool:
    """Whether the run starts from its own reference; warns of an adapter that makes it start elsewhere."""
    if finetuning_args.ref_model is not None:
        return False
    adapters = model_args.adapter_name_or_path
    if not training_args.do_train or not adapters or finetuning_args.create_new_adapter:
        return True
    base, last = model_args.model_name_or_path, adapters[-1]
    _warn(
        f"`adapter_name_or_path: {last}` is trained further, and without `ref_model` the reference is the "
        "model without it: the run starts away from its reference, and its first step already pulls back to "
        "it. To start from what the adapter has learnt, set `create_new_adapter: true` (it is merged, and a "
        f"new one is trained), or `ref_model: {base}` with `ref_model_adapters: {last}` (it is the "
        "reference, too)."
    )
    return False


def check_run(
    model_args: Any, data_args: Any, training_args: Any, finetuning_args: Any, settings: AspoSettings
) -> None:
    """What the other arguments tell. Raises `ValueError`; warns once of keys that change nothing."""
    idle = idle_keys(model_args, data_args, training_args, finetuning_args)
    if idle:
        _warn(
            f"{', '.join(f'`{key}`' for key in idle)} changes nothing with `stage: aspo`, as with "
            "`stage: dpo`: another stage or another loss reads it. Remove it."
        )
    _fail_on(
        [
            (
                bool(getattr(model_args, "use_kt", False)),
                "`use_kt` (KTransformers) brings a trainer or layers of its own and would bypass ASPO: "
                "remove it.",
            ),
            (
                bool(model_args.use_unsloth),
                "`use_unsloth` replaces the model's forward pass and returns no logits in training, "
                "which ASPO needs: remove it.",
            ),
            (
                not data_args.ignore_pad_token_for_loss,
                "`ignore_pad_token_for_loss: false` trains on padding, which belongs to no sentence: "
                "remove it.",
            ),
            (
                getattr(training_args, "train_sampling_strategy", None) == "group_by_length"
                or bool(getattr(training_args, "group_by_length", False)),
                "rows cannot be grouped by length (`train_sampling_strategy: group_by_length`, in earlier "
                "versions `group_by_length: true`): a pair has two lengths. Remove it.",
            ),
            (
                data_args.streaming and settings.similarity_model is not None and settings.alpha > 0,
                f"`aspo_similarity_model: {settings.similarity_model}` scores the whole dataset before "
                "training, which `streaming: true` never holds: turn streaming off, or score the dataset "
                "once with `aspo-data score` and remove `aspo_similarity_model`.",
            ),
            (
                data_args.streaming and settings.reference_cache is not None,
                f"`aspo_reference_cache: {settings.reference_cache}` is filled by a pass over the whole set "
                "before training, which `streaming: true` never holds: turn one of the two off.",
            ),
            (
                data_args.streaming
                and training_args.dataloader_num_workers < 1
                and any(attribute.load_from == "file" for _, attribute in _datasets(data_args)),
                "`streaming: true` needs `dataloader_num_workers` of 1 or more: LLaMA-Factory cuts a local "
                "dataset into as many parts. Set `dataloader_num_workers: 1`, or turn streaming off.",
            ),
        ]
    )
    check_ranking(data_args)


def check_ranking(data_args: Any) -> None:
    """Every dataset must have ranking data. Raises `ValueError` naming those that do not."""
    plain = [name for name, attribute in _datasets(data_args) if not attribute.ranking]
    if plain:
        raise ValueError(
            f"dataset {', '.join(plain)} is not marked as ranking data, and ASPO compares a chosen with a "
            'rejected response: choose a dataset that has both, with `"ranking": true` in dataset_info.json.'
        )


def _datasets(data_args: Any) -> Iterator[tuple[str, Any]]:
    from llamafactory.data.parser import get_dataset_list

    names = [*(data_args.dataset or []), *(data_args.eval_dataset or [])]
    yield from zip(names, get_dataset_list(names, data_args.dataset_dir), strict=True)


def no_similarities(name: str, alpha: float) -> ValueError:
    """The error for a dataset with images of which no sentence has a similarity, while alpha > 0."""
    return ValueError(
        f"dataset {name} has images but no image-text similarities, and `aspo_alpha: {alpha}` weights "
        "sentences by them. Score the dataset once with `aspo-data score`, or let the run score it with "
        "`aspo_similarity_model: openai/clip-vit-large-patch14-336`, or weight by perplexity only with "
        "`aspo_alpha: 0`."
    )


def _tokenized_without(path: str, alpha: float) -> ValueError:
    """The same for data that is tokenized already, which nothing scores any more."""
    return ValueError(
        f"`tokenized_path: {path}` holds images but no image-text similarities, `aspo_alpha: {alpha}` "
        "weights sentences by them, and what is tokenized is not scored any more, by "
        "`aspo_similarity_model` neither. Set another `tokenized_path`, and `aspo_similarity_model` or a "
        "dataset scored with `aspo-data score`; or weight by perplexity only with `aspo_alpha: 0`."
    )


def no_rejected(name: str) -> ValueError:
    """The error for images whose rejected responses are not scored, with `aspo_weight_rejected`."""
    return ValueError(
        f"dataset {name} has images but no similarities of its rejected responses, and "
        "`aspo_weight_rejected: true` weights them: score the dataset with `aspo-data score --rejected`, or "
        "remove `aspo_weight_rejected`. (`aspo_similarity_model` scores chosen responses only.)"
    )


def check_data(dataset_module: dict[str, Any], path: str | None, settings: AspoSettings) -> None:
    """Look at the tokenized data of a run. Raises `ValueError` for data that another stage tokenized
    (`tokenized_path`), and for what would train plain DPO by accident."""
    for name, split in dataset_module.items():
        for part in split.values() if isinstance(split, dict) else [split]:
            columns = next(iter(part)).keys()
            if "chosen_sentence_ids" not in columns or "chosen_similarity" not in columns:
                raise ValueError(
                    f"`tokenized_path: {path}` holds data that another stage tokenized, without sentences: "
                    "set another `tokenized_path`, and the run writes one with them."
                )
            if settings.weight_rejected and "rejected_sentence_ids" not in columns:
                raise ValueError(
                    f"`tokenized_path: {path}` holds data tokenized without `aspo_weight_rejected`: set "
                    "another `tokenized_path`, and the run writes one with the rejected responses' sentences."
                )
            if path is not None and settings.alpha > 0 and hasattr(part, "data"):
                images, similarity = (part.data.column(key) for key in ("images", "chosen_similarity"))
                if has_value(images) and not has_value(similarity):
                    if settings.weighting == "given":
                        raise no_numbers(f"`tokenized_path: {path}`")
                    raise _tokenized_without(path, settings.alpha)
            if settings.alpha == 1 and name == "train_dataset":
                check_weights(part, settings)


# A streamed dataset is judged by its first rows: its whole is not known before training.
STREAM_PEEK = 64


def check_weights(dataset: Any, settings: AspoSettings) -> None:
    """Refuse `aspo_alpha: 1` for a training set without one similarity: every weight would be 0."""
    given = settings.weighting == "given"
    for side in ("chosen", "rejected") if given and settings.weight_rejected else ("chosen",):
        column = f"{side}_similarity"
        if hasattr(dataset, "data"):
            known = has_value(dataset.data.column(column))
        else:
            values = (value for row in dataset.take(STREAM_PEEK) for value in row[column])
            known = any(value is not None and value == value for value in values)
        if known:
            continue
        if given:
            raise no_numbers("the training set", side)
        raise ValueError(
            "`aspo_alpha: 1` weights sentences by their similarity to an image alone, and no training row "
            "has one (a set of text, video or audio): this would train plain DPO. Set `aspo_alpha: 0`, which "
            "weights by perplexity, or `stage: dpo`."
        )


def has_value(column: Any) -> bool:
    """Whether an Arrow column of lists holds an item that is neither null nor NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    missing = pc.is_null(flat, nan_is_null=pa.types.is_floating(flat.type))
    return pc.sum(missing).as_py() not in (None, len(flat))
