"""Settings that cannot train ASPO, refused before a model loads."""

from __future__ import annotations

import os
from typing import Any

from aspo_plugin.config import AspoSettings, check_beta

TRUE_WORDS = ("1", "true", "y", "yes")


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


def check_run(model_args: Any, data_args: Any, settings: AspoSettings) -> None:
    """What the other arguments tell. Raises `ValueError`."""
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
        ]
    )
    check_ranking(data_args)


def check_ranking(data_args: Any) -> None:
    """Every dataset must have ranking data. Raises `ValueError` naming those that do not."""
    from llamafactory.data.parser import get_dataset_list

    names = [*(data_args.dataset or []), *(data_args.eval_dataset or [])]
    attributes = get_dataset_list(names, data_args.dataset_dir)
    plain = [name for name, attribute in zip(names, attributes, strict=True) if not attribute.ranking]
    if plain:
        raise ValueError(
            f"dataset {', '.join(plain)} is not marked as ranking data, and ASPO compares a chosen with a "
            'rejected response: choose a dataset that has both, with `"ranking": true` in dataset_info.json.'
        )


def no_similarities(name: str, alpha: float) -> ValueError:
    """The error for a dataset with images of which no sentence has a similarity, while alpha > 0."""
    return ValueError(
        f"dataset {name} has images but no image-text similarities, and `aspo_alpha: {alpha}` weights "
        "sentences by them. Score the dataset once with `aspo-data score`, or let the run score it with "
        "`aspo_similarity_model: openai/clip-vit-large-patch14-336`, or weight by perplexity only with "
        "`aspo_alpha: 0`."
    )


def no_rejected(name: str) -> ValueError:
    """The error for images whose rejected responses are not scored, with `aspo_weight_rejected`."""
    return ValueError(
        f"dataset {name} has images but no similarities of its rejected responses, and "
        "`aspo_weight_rejected: true` weights them: score the dataset with `aspo-data score --rejected`, or "
        "remove `aspo_weight_rejected`. (`aspo_similarity_model` scores chosen responses only.)"
    )


def check_tokenized(dataset_module: dict[str, Any], path: str | None, settings: AspoSettings) -> None:
    """Refuse tokenized data (`tokenized_path`) that was written without sentences. Raises `ValueError`."""
    for split in dataset_module.values():
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
                images, similarity = (part.data.column(name) for name in ("images", "chosen_similarity"))
                if has_value(images) and not has_value(similarity):
                    raise no_similarities(f"in `tokenized_path: {path}`", settings.alpha)


def has_value(column: Any) -> bool:
    """Whether an Arrow column of lists holds an item that is neither null nor NaN."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    missing = pc.is_null(flat, nan_is_null=pa.types.is_floating(flat.type))
    return pc.sum(missing).as_py() not in (None, len(flat))
