"""The `aspo:` block of an Axolotl config, made of the shared settings, and what cannot go with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from aspo_plugin.config import AspoSettings, canonical, check_beta, settings_from
from aspo_plugin.training.rewritten_base import rewrites_base, wrong_reference

from .contract import file_type

NAME = "aspo: {}"  # how a user of Axolotl writes a setting
DATASET_KEYS = ("path", "split", "type", "data_files", "revision")
# What a prompt strategy of Axolotl, named by `type`, may read beside them: Axolotl's own schema of preference
# sets drops all others.
STRATEGY_KEYS = ("field_messages", "field_chosen", "field_rejected")

# What Axolotl's trainer of preferences never reads, with the values that ask for nothing.
_SUPERVISED = "Axolotl reads it in supervised fine-tuning only, so it would change nothing"
_SUPERVISED_ONLY: dict[str, tuple[Any, ...]] = {
    "balance_labels": (False,),
    "curriculum_sampling": (False,),
    "do_bench_eval": (False,),
    "do_causal_lm_eval": (False,),
    "eval_table_size": (0,),
    "image_resize_algorithm": (),
    "jagged_restart_steps": (0,),
    "lisa_step_interval": (0,),
    "loss_watchdog_threshold": (),
    "lr_quadratic_warmup": (False,),
    "min_sample_len": (),
    "neftune_noise_alpha": (0, 0.0),
    "relora": (False,),
    "use_dft": (False,),
    "use_eaft": (False,),
}

# Config key -> (values that are fine, why others are not). A key that is not set is always fine.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "sample_packing": ((False,), "packed rows have no pairs; pairs are batched by micro_batch_size"),
    "eval_sample_packing": ((False,), "packed rows have no pairs"),
    "pad_to_multiple_of": ((), "rows are padded to the longest of the batch"),
    "streaming": ((False,), "every pair is checked before training"),
    "pretraining_dataset": ((), "ASPO trains on preference pairs: use datasets"),
    "skip_prepare_dataset": ((False,), "sentences are placed on the tokens while the data is prepared"),
    "image_size": ((), f"{_SUPERVISED}: bound images by processor_kwargs, such as max_pixels"),
    "group_by_length": ((False,), "the length of a row with images is known only when it is collated"),
    "context_parallel_size": ((1,), "a sentence's log-probs would be spread over processes"),
    "dpo_use_liger_kernel": ((False,), "Liger's fused loss gives no per-token log-probs"),
    "dpo_padding_free": ((False,), "the sentences of a pair are found by its row"),
    "dpo_use_weighting": ((False,), "ASPO brings its own weights"),
    "dpo_ld_alpha": ((), "ASPO weights tokens by their sentence, not by their position"),
    "dpo_label_smoothing": ((0, 0.0), "the loss of ASPO has no label smoothing"),
    "dpo_loss_type": ((["sigmoid"],), "the loss of ASPO is -log sigmoid of its own margin"),
    "dpo_loss_weights": ((), "ASPO is one loss"),
    "precompute_ref_log_probs": ((False,), "it keeps one sum per response; use `aspo: reference_cache`"),
    "beta": ((), "Axolotl's key for it is rl_beta"),
    "orpo_alpha": ((), "it is ORPO's, and Axolotl would take it for rl_beta where that is not set"),
    **{key: (off, _SUPERVISED) for key, off in _SUPERVISED_ONLY.items()},
    "reward_model": ((False,), "ASPO trains a policy"),
    "process_reward_model": ((False,), "ASPO trains a policy"),
}


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise ValueError(f"aspo is {values!r}: write a block of settings, for example `alpha: 0.5`.")
        settings_from(dict(values), NAME)
        return {name: canonical(name, value) for name, value in values.items()}


_TYPES = get_type_hints(AspoSettings)
AspoBlock: Any = create_model(
    "AspoBlock",
    __base__=_Block,
    __doc__="The `aspo:` block.",
    **{
        item.name: (_TYPES[item.name], Field(default=item.default, description=item.metadata["help"]))
        for item in fields(AspoSettings)
    },
)


def settings_of(cfg: Any) -> AspoSettings:
    """The validated settings of a config's block `aspo:`; the defaults where it has none."""
    return settings_from(dict(cfg.aspo or {}), NAME)


class AspoArgs(BaseModel):
    """What the plugin adds to Axolotl's config."""

    aspo: AspoBlock | None = Field(default=None, description="Settings of `rl: aspo`.")


def refuse(cfg: Mapping[str, Any]) -> None:
    """Raise `ValueError` for the first option of a raw config that cannot work with `rl: aspo`."""
    strays = sorted(key for key in cfg if key.startswith("aspo") and key != "aspo")
    if strays:
        names = ", ".join(item.name for item in fields(AspoSettings))
        raise ValueError(
            f"{', '.join(strays)} is not a key of Axolotl: settings of ASPO go into the block `aspo:`, "
            f"whose keys are {names}."
        )
    AspoBlock.model_validate(cfg.get("aspo") or {})
    for key, (allowed, why) in REFUSED.items():
        value = cfg.get(key)
        if value is not None and value not in allowed:
            raise ValueError(f"{key}: {value} does not work with rl: aspo, because {why}. Remove the key.")
    _check_reference(cfg)
    trl = cfg["trl"] if isinstance(cfg.get("trl"), Mapping) else {}
    idle = sorted(key for key, value in trl.items() if key != "beta" and value not in (None, False))
    if idle:
        raise ValueError(
            f"trl: {idle[0]} would change nothing with rl: aspo: of that block Axolotl reads beta alone, "
            "but for GRPO. Remove the key."
        )
    for key, beta in (("rl_beta", cfg.get("rl_beta")), ("trl: beta", trl.get("beta"))):
        if isinstance(beta, int | float):  # others, and a `trl` that is no block, are the schema's to refuse
            check_beta(beta, key)
    if cfg.get("rl_adapter_ref_model") and (cfg.get("aspo") or {}).get("reference_cache"):
        raise ValueError(
            "rl_adapter_ref_model: true loads a second model for the reference, and aspo: reference_cache is "
            "there to hold none. Remove one of them: without the first, the model without its adapter is the "
            "reference."
        )
    if cfg.get("trainer_cls"):
        raise ValueError(
            f"trainer_cls: {cfg['trainer_cls']} would replace the trainer of rl: aspo. Remove trainer_cls, "
            "or choose another rl."
        )
    if not cfg.get("datasets"):
        raise ValueError(
            "rl: aspo needs datasets: a list of preference sets, for example `- path: my-folder`."
        )
    for key in ("datasets", "test_datasets"):
        for entry in cfg.get(key) or []:
            _check_entry(key, dict(entry))


def _check_reference(cfg: Mapping[str, Any]) -> None:
    """With an adapter the reference is the base model, which some initialisations rewrite."""
    if not cfg.get("adapter") or cfg.get("rl_adapter_ref_model"):
        return
    init, peft = cfg.get("peft_init_lora_weights"), cfg.get("peft")
    if rewrites_base(init):
        raise wrong_reference(init, "peft_init_lora_weights")
    loftq = peft.get("loftq_config") if isinstance(peft, Mapping) else None
    if isinstance(loftq, Mapping) and loftq.get("loftq_bits"):
        raise wrong_reference("loftq", "the initialisation of peft: loftq_config")


def _check_entry(key: str, entry: dict[str, Any]) -> None:
    known = DATASET_KEYS + (STRATEGY_KEYS if entry.get("type") else ())
    unknown = sorted(set(entry) - {*known, "ds_type"})
    if not entry.get("path"):
        raise ValueError(f"{key}: {entry} has no path. The keys are {', '.join(known)}.")
    _check_file_type(key, entry)
    if set(unknown) & set(STRATEGY_KEYS):
        raise ValueError(
            f"{key}: {entry} has {', '.join(unknown)}, which only a prompt strategy reads: add its `type`, "
            "for example `type: chat_template.default`."
        )
    if unknown:
        raise ValueError(
            f"{key}: {entry} has {', '.join(unknown)}, which rl: aspo does not read. "
            f"The keys are {', '.join(known)}."
        )


def _check_file_type(key: str, entry: dict[str, Any]) -> None:
    """`ds_type` may repeat a file's ending: Axolotl drops the key there and goes by the name."""
    path, given = entry["path"], entry.get("ds_type")
    if given is None or (Path(path).is_dir() and not entry.get("data_files")):
        return
    if given != (taken := file_type(path)):
        raise ValueError(
            f"{key}: {entry} has ds_type, which Axolotl drops in preference sets: where it goes by a file's "
            f"type, it would read {path} as {taken}. Remove ds_type, or name the file itself as path, "
            "with the ending of its type."
        )
