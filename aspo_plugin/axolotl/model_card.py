"""What the model card of an Axolotl run tells beside TRL's: hyper-parameters, datasets and revisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aspo_plugin.config import settings_from
from aspo_plugin.training.model_card import add_section, dataset_row

from .arguments import NAME

KEYS = (
    "adapter",
    "lora_r",
    "lora_alpha",
    "learning_rate",
    "lr_scheduler",
    "optimizer",
    "num_epochs",
    "max_steps",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "sequence_len",
    "seed",
)


def describe(cfg: Any, output_dir: str | Path, beta: float) -> None:
    """Add the ASPO section to the README.md that the trainer wrote, from the validated config."""
    settings = settings_from(dict(cfg.aspo or {}), NAME)
    values = {
        "rl_beta": beta,
        **settings.told(NAME),
        **{key: getattr(cfg[key], "value", cfg[key]) for key in KEYS},
    }
    add_section(
        output_dir, values, [dataset_row(entry["path"], entry.get("revision")) for entry in cfg.datasets]
    )
