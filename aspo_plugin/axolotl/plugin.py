"""The hooks Axolotl calls. What they do is in `args` (settings), `data` (datasets) and `host` (the rest)."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin


class AspoPlugin(BasePlugin):
    """`rl: aspo`: ASPO as a preference method of Axolotl, for vision-language and text-only models."""

    def register(self, cfg: Any) -> None:
        from . import host

        host.register(cfg)

    def get_input_args(self) -> str:
        return "aspo_plugin.axolotl.args.AspoArgs"

    def get_training_args(self, cfg: Any) -> dict[str, Any] | None:
        from . import host

        return host.training_args(cfg)

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        from . import host

        return host.callbacks(cfg)

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> Any:
        from . import host

        return host.load_datasets(cfg)

    def pre_model_load(self, cfg: Any) -> None:
        from . import host

        host.hold_no_reference(cfg)

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        from . import host

        if host.is_aspo(cfg):
            host.check_trainer(trainer)
            host.save_config(cfg)
            host.save_adapter_alone(cfg, trainer)
