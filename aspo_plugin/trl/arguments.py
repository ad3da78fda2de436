"""`AspoConfig`: TRL's `DPOConfig` with the settings of ASPO."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from trl import DPOConfig

from aspo_plugin.config import AspoSettings, check_beta, settings_from

if TYPE_CHECKING:
    from transformers import TrainingArguments

PREFIX = "aspo_"
SETTING_NAMES = tuple(item.name for item in fields(AspoSettings))

# Option of DPOConfig -> (the one value ASPO trains with, why another breaks it).
_FIXED: dict[str, tuple[Any, str]] = {
    "loss_type": (["sigmoid"], "the loss of ASPO is -log sigmoid of its own margin"),
    "loss_weights": (None, "ASPO is one loss"),
    "ld_alpha": (None, "ASPO weights tokens by their sentence, not by their position"),
    "f_divergence_type": ("reverse_kl", "the margin of ASPO is defined with log-ratios"),
    "label_smoothing": (0.0, "the loss of ASPO has no label smoothing"),
    "label_smoothing_factor": (0.0, "the loss of ASPO has no label smoothing"),
    "use_weighting": (False, "ASPO brings its own weights"),
    "use_liger_kernel": (False, "Liger's fused loss gives no per-token log-probs"),
    "padding_free": (False, "the sentences of a pair are found by its row"),
    "pad_to_multiple_of": (None, "rows are padded to the longest of the batch"),
    "router_aux_loss_coef": (0.0, "ASPO computes no load-balancing loss"),
    "precompute_ref_log_probs": (False, "it keeps one sum per response; use aspo_reference_cache"),
    "truncation_mode": ("keep_start", "cutting from the start would cut image tokens"),
}


def refuse_options(args: TrainingArguments) -> None:
    """Raise `ValueError` for an option of `DPOConfig` that would bypass or contradict ASPO."""
    check_beta(args.beta, "beta")
    for option, (allowed, why) in _FIXED.items():
        value = getattr(args, option, allowed)
        if value != allowed:
            raise ValueError(
                f"{option} is {value!r}, which ASPO cannot use: {why}. "
                f"Leave it out, or set it to {allowed!r}."
            )
    if getattr(args, "train_sampling_strategy", None) == "group_by_length":
        raise ValueError(
            "train_sampling_strategy is 'group_by_length', but the length of a row with images is known only "
            "when it is collated: leave it out."
        )
    spread = getattr(args, "parallelism_config", None)
    for size in ("cp_size", "sp_size"):
        if (number := getattr(spread, size, None) or 1) > 1:
            raise ValueError(
                f"{size} of parallelism_config is {number}: a sentence's log-probs would be spread over "
                "processes. Set it to 1, and shard the model (FSDP, DeepSpeed) where memory is short."
            )
    if getattr(args, "sync_ref_model", False) and getattr(args, "aspo_reference_cache", None):
        raise ValueError(
            "sync_ref_model changes the reference model, so its cached log-probs would be stale: "
            "drop sync_ref_model or aspo_reference_cache."
        )


def settings_of(args: TrainingArguments) -> AspoSettings:
    """The validated settings that `args` carries as `aspo_*`."""
    return settings_from({name: getattr(args, PREFIX + name) for name in SETTING_NAMES})


# What `transformers`' argument parser takes of a field; it gives all of its metadata to argparse.
_PARSED = ("help", "choices")
_Settings: Any = make_dataclass(
    "_Settings",
    [
        (
            PREFIX + name,
            kind,
            field(
                default=source.default,
                metadata={key: source.metadata[key] for key in _PARSED if key in source.metadata},
            ),
        )
        for name, kind in get_type_hints(AspoSettings).items()
        for source in [AspoSettings.__dataclass_fields__[name]]
    ],
)


@dataclass
class AspoConfig(_Settings, DPOConfig):
    """All of `DPOConfig` (`beta`, `max_length`, ...) and the settings of ASPO, see `aspo_plugin.config`.

    Raises `ValueError` for a setting out of bounds, and for options of `DPOConfig` that ASPO cannot use.
    """

    router_aux_loss_coef: float = field(
        default=0.0, metadata={"help": "ASPO computes no load-balancing loss: stays 0."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = settings_of(self)
        for name in SETTING_NAMES:
            setattr(self, PREFIX + name, getattr(settings, name))
        refuse_options(self)
