"""What turns texts and images into tokens in a run of Axolotl."""

from __future__ import annotations

from typing import Any


def processing_class(cfg: Any, tokenizer: Any) -> Any:
    """The processor of a vision-language model, with the chat template of the config; else the tokenizer.

    Raises `ImportError` or `ValueError` in one line for a model that cannot run here.
    """
    from axolotl.loaders import load_processor
    from axolotl.loaders.utils import load_model_config

    from aspo_plugin.training.model_needs import missing_packages_named, refuse_broken

    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # where Axolotl made a processor itself
    if not cfg.is_multimodal:
        return tokenizer
    refuse_broken(load_model_config(cfg))
    with missing_packages_named(cfg.base_model):
        processor = load_processor(cfg, tokenizer)
    if cfg.chat_template:
        processor.chat_template = tokenizer.chat_template
    return processor
