"""No backward pass through a frozen vision tower.

For gradient checkpointing the hosts make the outputs of all input embeddings require gradients, the patch
embedding's too. Autograd then keeps the tower's activations and walks back through all its layers, to
gradients that nothing reads. Where no weight of the tower is trained, its forward runs without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from aspo_plugin.logprobs.output_layer import unwrap

_NAMES = ("vision_tower", "visual", "vision_model")


def vision_towers(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that see nothing but pixels."""
    base = unwrap(model)
    owners = [owner for owner in (base, getattr(base, "model", None)) if isinstance(owner, nn.Module)]
    found = [getattr(owner, name, None) for owner in owners for name in _NAMES]
    # Older names of the same module are kept as properties.
    return list({id(tower): tower for tower in found if isinstance(tower, nn.Module)}.values())


@contextmanager
def frozen_without_gradients(towers: list[nn.Module]) -> Iterator[None]:
    """While open, the forward of each tower without a trained weight builds no graph."""
    replaced = []
    for tower in towers:
        if not any(parameter.requires_grad for parameter in tower.parameters()):
            replaced.append((tower, tower.__dict__.get("forward")))
            tower.forward = torch.no_grad()(tower.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for tower, own in replaced:
            if own is None:
                del tower.__dict__["forward"]
            else:
                tower.forward = own
