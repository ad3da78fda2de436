"""Dropout that `nn.Dropout` modules do not hold.

Preference trainers switch dropout off, so that policy and reference differ by their weights alone, by setting
the `p` of every `nn.Dropout`. Newer attention layers of `transformers` keep theirs as a plain number.
"""

from __future__ import annotations

from torch import nn


def disable_attention_dropout(model: nn.Module) -> int:
    """Set every `attention_dropout` of `model` to 0; returns how many were not."""
    layers = [module for module in model.modules() if getattr(module, "attention_dropout", None)]
    layers = [module for module in layers if isinstance(module.attention_dropout, float)]
    for module in layers:
        module.attention_dropout = 0.0
    return len(layers)
