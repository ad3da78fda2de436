"""An Axolotl config as ASPO sees it: whether it trains ASPO, what it runs for, how it is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aspo_plugin.training.files import CONFIG

TRAINER = "aspo_plugin.axolotl.trainer.AxolotlAspoTrainer"
PLUGIN = "aspo_plugin.axolotl.AspoPlugin"
_EVALUATES = "aspo_evaluates"


def is_aspo(cfg: Any) -> bool:
    """Whether a registered config trains ASPO."""
    return bool(cfg.get("trainer_cls") == TRAINER)


def mark_evaluation(cfg: Any) -> None:
    """Remember that `axolotl evaluate` runs."""
    cfg[_EVALUATES] = True


def evaluates(cfg: Any) -> bool:
    """Whether `axolotl evaluate` runs, and not `axolotl train`."""
    return bool(cfg.get(_EVALUATES))


def current_config() -> Any:
    """The validated config of this process."""
    from axolotl.integrations.base import PluginManager

    return PluginManager.get_instance().cfg


def save_config(cfg: Any) -> None:
    """Write the config as the user thinks of it, `rl: aspo`, to `aspo_config.yaml` in the output folder."""
    import json

    import yaml

    if cfg.local_rank != 0:
        return
    plain = json.loads(
        json.dumps({key: value for key, value in cfg.items() if value is not None}, default=str)
    )
    plain.pop("trainer_cls")
    Path(cfg.output_dir).mkdir(parents=True, exist_ok=True)
    with open(Path(cfg.output_dir) / CONFIG, "w", encoding="utf-8") as stream:
        yaml.safe_dump({**plain, "rl": "aspo"}, stream)
