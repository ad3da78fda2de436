"""Axolotl's DPO trainer with the ASPO loss; `registration.register` names it in `trainer_cls`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

from aspo_plugin.training.model_card import scorer_names, scorer_of
from aspo_plugin.trl.arguments import PREFIX
from aspo_plugin.trl.trainer import AspoMixin

from . import model_card
from .arguments import NAME, settings_of
from .config import current_config, evaluates
from .processing import processing_class as processing_class_of


class AxolotlAspoTrainer(AspoMixin, AxolotlDPOTrainer):
    """Built by Axolotl with a tokenizer; takes the processor and the settings from the config."""

    _tag_names = ["axolotl", "aspo"]
    tag_names = ["axolotl", "aspo"]
    _setting_name = NAME
    _template_remedy = (
        "set `chat_template: jinja` and a `chat_template_jinja` that writes eos_token behind the assistant's "
        "text, as recipes/axolotl/llava-1.5-7b.yaml does"
    )

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        *,
        args: Any,
        processing_class: Any,
        peft_config: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ) -> None:
        cfg = current_config()
        if cfg.aspo is None:  # a schema that does not know the block drops it
            raise RuntimeError(
                "the block aspo was lost on the way to the trainer: its plugin was not loaded."
            )
        for name, value in asdict(settings_of(cfg)).items():
            setattr(args, PREFIX + name, value)
        trained = None
        if cfg.adapter and peft_config is None:  # `axolotl evaluate` gives the model without its adapter
            trained = trained_adapter(cfg)
            peft_config = PeftConfig.from_pretrained(trained)
        elif cfg.adapter and cfg.lora_model_dir:
            # Axolotl gives the config of a given adapter, not its weights.
            model = PeftModel.from_pretrained(model, cfg.lora_model_dir, is_trainable=True)
            peft_config = None  # TRL keeps a frozen copy of the loaded adapter as the reference
        elif evaluates(cfg):  # `axolotl evaluate` gives the base model, and no reference
            ref_model, model = model, trained_model(cfg, model)
        super().__init__(
            model=model,
            ref_model=ref_model,
            args=args,
            data_collator=None,  # ours; a collator of Axolotl's knows no sentences
            processing_class=processing_class_of(cfg, processing_class),
            peft_config=peft_config,
            **kwargs,
        )
        if trained is not None:
            set_peft_model_state_dict(self.model, load_peft_weights(trained, device="cpu"))

    def _scorer_names(self) -> list[str]:
        paths = [entry["path"] for entry in current_config().datasets]
        return scorer_names(paths, self.aspo_settings.similarity_model)

    def _scored_by(self) -> dict[str, Any]:
        return {"scorers": [scorer_of(entry["path"]) for entry in current_config().datasets]}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            model_card.describe(current_config(), self.args.output_dir, self.beta)


def trained_model(cfg: Any, base: Any) -> Any:
    """The fully fine-tuned model in `output_dir`, loaded as `base` was."""
    if not any(Path(cfg.output_dir).glob("*.safetensors*")):
        raise ValueError(f"{cfg.output_dir} holds no model to evaluate: train first, or correct output_dir.")
    return type(base).from_pretrained(
        cfg.output_dir, dtype=base.dtype, attn_implementation=base.config._attn_implementation
    )


def trained_adapter(cfg: Any) -> str:
    """The folder of the adapter to evaluate: `lora_model_dir`, else `output_dir`."""
    folder = cfg.lora_model_dir or cfg.output_dir
    if not (Path(folder) / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds no adapter to evaluate: train first, or set lora_model_dir to the adapter's "
            "folder."
        )
    return str(folder)
