"""What of a recipe decides its memory, read from either host's keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataset_tools.nearest import nearest_path

from .keys import TITLES, check_keys
from .uncounted import notes, offloaded

MODEL_KEYS = {"model_name_or_path": "llamafactory", "base_model": "axolotl"}
ENDINGS = {"llamafactory": ".args", "axolotl": ".yaml"}
"""Of the files in recipes/shared that are laid over a recipe."""


@dataclass(frozen=True)
class Run:
    """`pairs` per GPU and forward pass; `length` in tokens; `targets` as the host takes them."""

    host: str
    model: str
    method: str  # lora, qlora or full
    rank: int
    targets: str | tuple[str, ...]
    # Full: patterns of trained parameters, () for the whole model but its vision parts.
    trained: tuple[str, ...]
    pairs: int
    length: int
    gpus: int
    sharding: str  # none, zero0 to zero3, or fsdp
    checkpointing: bool
    reference_copy: bool
    # Parts of the model that are trained or adapted: language, tower, projector.
    parts: frozenset[str] = frozenset({"language"})
    # Names of modules that are trained in full beside adapters.
    extra: tuple[str, ...] = ()


def read_run(
    recipe: Path,
    overrides: list[str],
    more: Path | None,
    gpus: int,
    tell: Callable[[str], Any] = lambda text: None,
) -> Run:
    """The run that `recipe` describes with `overrides` (KEY=VALUE) and the file `more` laid over it.

    `tell` hears of keys that have no effect. Raises `ValueError` where something is missing, unknown or
    unreadable.
    """
    values = _mapping(recipe)
    host = next((host for key, host in MODEL_KEYS.items() if key in values), None)
    if host is None:
        raise ValueError(f"{recipe} names no model: expected {' or '.join(MODEL_KEYS)}.")
    given = {**(_laid_over(host, more, tell) if more is not None else {}), **_pairs(overrides)}
    check_keys(host, values, given, tell)
    values.update(given)
    for note in notes(host, values):
        tell(note)
    for note in offloaded(_zero(values), values.get("fsdp_config")):
        tell(note)
    return _llamafactory(values, gpus) if host == "llamafactory" else _axolotl(values, gpus)


def _laid_over(host: str, more: Path, tell: Callable[[str], Any]) -> dict[str, Any]:
    """The keys of a file of recipes/shared. Of several values, as a sweep has them, the first counts."""
    ending = ENDINGS[host]
    if more.suffix != ending:
        raise ValueError(
            f"{more} does not end with {ending}, as files laid over recipes of {TITLES[host]} do."
        )
    if host == "llamafactory":
        return _pairs(existing(more).read_text(encoding="utf-8").split())
    sweep = _mapping(more)
    for key, value in sweep.items():
        if not isinstance(value, list) or not value:
            raise ValueError(f"{more}: {key} is {value!r}, but a sweep has a list of values for each key.")
        if len(value) > 1:
            tell(f"note: {more} makes {len(value)} runs of {key}; the first one is counted.")
    return {key: value[0] for key, value in sweep.items()}


def existing(path: Path) -> Path:
    """The path of a file. Raises `ValueError`, with the nearest name, where there is none."""
    if path.is_file():
        return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a recipe in it.")
    raise ValueError(f"{path} does not exist.{nearest_path(path)}")


def _mapping(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(existing(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is not a mapping of keys.")
    return values


def _pairs(words: list[str]) -> dict[str, Any]:
    made = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not KEY=VALUE.")
        made[key] = yaml.safe_load(value)
    return made


def _whole(values: dict[str, Any], key: str, default: int) -> int:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key} is {value!r}: set a whole number above 0.")
    return value


def _sharding(values: dict[str, Any], fsdp: Any) -> str:
    if not values.get("deepspeed"):
        return "fsdp" if fsdp else "none"
    return f"zero{_zero(values).get('stage', 0)}"


def _zero(values: dict[str, Any]) -> dict[str, Any]:
    """The block zero_optimization of DeepSpeed's configuration, in a file or the recipe; else {}."""
    given = values.get("deepspeed")
    if not given:
        return {}
    if not isinstance(given, str | dict):
        raise ValueError(f"deepspeed is {given!r}: name a JSON file, or write its keys.")
    zero = (given if isinstance(given, dict) else _mapping(Path(given))).get("zero_optimization") or {}
    if not isinstance(zero, dict) or zero.get("stage", 0) not in (0, 1, 2, 3):
        raise ValueError(f"zero_optimization of deepspeed is {zero!r}: its stage is a number from 0 to 3.")
    return zero


def _llamafactory(values: dict[str, Any], gpus: int) -> Run:
    kind = values.get("finetuning_type", "lora")
    if kind not in ("lora", "full"):
        raise ValueError(f"finetuning_type is {kind!r}: aspo-plan knows lora and full.")
    quantized = values.get("quantization_bit")
    if quantized not in (None, 4):
        raise ValueError(f"quantization_bit is {quantized!r}: aspo-plan knows 4.")
    targets = str(values.get("lora_target", "all"))
    frozen = {
        "tower": values.get("freeze_vision_tower", True),
        "projector": values.get("freeze_multi_modal_projector", True),
        "language": values.get("freeze_language_model", False),
    }
    return Run(
        host="llamafactory",
        model=values["model_name_or_path"],
        method="full" if kind == "full" else "qlora" if quantized else "lora",
        rank=_whole(values, "lora_rank", 8),
        targets="all" if targets == "all" else tuple(name.strip() for name in targets.split(",")),
        trained=(),
        pairs=_whole(values, "per_device_train_batch_size", 8),
        length=_whole(values, "cutoff_len", 2048),
        gpus=gpus,
        sharding=_sharding(values, values.get("fsdp")),
        checkpointing=not values.get("disable_gradient_checkpointing", False),
        reference_copy=(kind == "full" or bool(values.get("ref_model")))
        and not values.get("aspo_reference_cache"),
        parts=frozenset(part for part, kept in frozen.items() if not kept),
        extra=() if kind == "full" else _names(values.get("additional_target")),
    )


def _axolotl(values: dict[str, Any], gpus: int) -> Run:
    adapter = values.get("adapter")
    if adapter not in (None, "lora", "qlora"):
        raise ValueError(f"adapter is {adapter!r}: aspo-plan knows lora, qlora and none.")
    targets = values.get("lora_target_modules") or "all"
    if values.get("lora_target_linear"):
        targets = "linear"
    cache = (values.get("aspo") or {}).get("reference_cache")
    return Run(
        host="axolotl",
        model=values["base_model"],
        method=adapter or "full",
        rank=_whole(values, "lora_r", 8),
        targets=targets if isinstance(targets, str) else tuple(targets),
        trained=tuple(values.get("unfrozen_parameters") or (".*",)),
        pairs=_whole(values, "micro_batch_size", 1),
        length=_whole(values, "sequence_len", 512),
        gpus=gpus,
        sharding=_sharding(values, values.get("fsdp_config")),
        checkpointing=bool(
            values.get("gradient_checkpointing")
            or (values.get("fsdp_config") or {}).get("activation_checkpointing")
        ),
        reference_copy=(adapter is None or bool(values.get("rl_adapter_ref_model"))) and not cache,
        # A list of names is looked for in the whole model: towers have a q_proj, too.
        parts=frozenset({"language", "tower", "projector"} if targets != "all" else {"language"}),
        extra=() if adapter is None else _names(values.get("lora_modules_to_save")),
    )


def _names(given: Any) -> tuple[str, ...]:
    """Names in a list, or in a text with commas."""
    words = given.split(",") if isinstance(given, str) else given or ()
    return tuple(str(word).strip() for word in words)
