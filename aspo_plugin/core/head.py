"""Find a language model's output layer behind wrappers, and read only the rows of it that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP, DeepSpeed, FSDP1, `torch.compile` and PEFT; FSDP2 wraps nothing."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif not hasattr(model, "get_output_embeddings") and isinstance(
            getattr(model, "module", None), nn.Module
        ):
            model = model.module
        else:
            return model


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that makes logits from hidden states, or None where the model names none."""
    base = unwrap(model)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return head if isinstance(head, nn.Module) else None


@contextmanager
def rows_only(head: nn.Module, rows: Tensor, shape: tuple[int, int]) -> Iterator[list[str]]:
    """While open, `head` sees only `rows` (long, into the flattened `shape` = [batch, length]) of its input.

    The list stays empty until the head has run; then it holds "" or why the input was left whole.
    """
    seen: list[str] = []

    def keep(module: nn.Module, args: tuple, kwargs: dict):
        hidden = args[0] if args else None
        if seen:
            seen[:] = ["the model calls its output layer more than once"]
            return None
        if not torch.is_tensor(hidden) or tuple(hidden.shape[:2]) != shape:
            seen.append("the output layer's input is not [batch, length, hidden]")
            return None
        seen.append("")
        return (hidden.flatten(0, 1)[rows].unsqueeze(0), *args[1:]), kwargs

    handle = head.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
