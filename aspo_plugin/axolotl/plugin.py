"""The hooks Axolotl calls, each with the file that does its work."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin


class AspoPlugin(BasePlugin):
    """`rl: aspo`: ASPO as a preference method of Axolotl, for vision-language and text-only models."""

    def register(self, cfg: Any) -> None:
        from .registration import register

        register(cfg)

    def get_input_args(self) -> str:
        return "aspo_plugin.axolotl.arguments.AspoArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        from .training_arguments import training_args

        return training_args(cfg)

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        from .training_arguments import callbacks

        return callbacks(cfg)

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> Any:
        from .prepared import load_datasets

        return load_datasets(cfg)

    def pre_model_load(self, cfg: Any) -> None:
        from . import patches

        patches.hold_no_reference(cfg)
        patches.build_without_host_collator(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        from .config import is_aspo, save_config
        from .patches import save_adapter_alone

        if is_aspo(cfg):
            _check_trainer(trainer)
            save_config(cfg)
            save_adapter_alone(cfg, trainer)


def _check_trainer(trainer: Any) -> None:
    """Stop the run where another plugin or setting replaced the trainer."""
    from aspo_plugin.trl.trainer import AspoMixin

    if not isinstance(trainer, AspoMixin):
        raise RuntimeError(
            f"rl: aspo was asked for, but Axolotl built {type(trainer).__name__}: another plugin replaces "
            "the trainer. Remove it from plugins."
        )
