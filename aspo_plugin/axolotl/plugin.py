"""The hooks Axolotl calls. What they do is in `arguments`, `datasets` and `patches` (the rest)."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin


class AspoPlugin(BasePlugin):
    """`rl: aspo`: ASPO as a preference method of Axolotl, for vision-language and text-only models."""

    def register(self, cfg: Any) -> None:
        from . import patches

        patches.register(cfg)

    def get_input_args(self) -> str:
        return "aspo_plugin.axolotl.arguments.AspoArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        from . import patches

        return patches.training_args(cfg)

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        from . import patches

        return patches.callbacks(cfg)

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> Any:
        from . import patches

        return patches.load_datasets(cfg)

    def pre_model_load(self, cfg: Any) -> None:
        from . import patches

        patches.hold_no_reference(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        from . import patches

        if patches.is_aspo(cfg):
            patches.check_trainer(trainer)
            patches.save_config(cfg)
            patches.save_adapter_alone(cfg, trainer)
