"""ASPO for TRL: `AspoConfig`, `AspoTrainer` and its collator, built on TRL's `DPOTrainer`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import AspoConfig
    from .collator import AspoVisionCollator
    from .datasets import prepare_dataset
    from .trainer import AspoTrainer

_HOMES = {
    "AspoConfig": "arguments",
    "AspoTrainer": "trainer",
    "AspoVisionCollator": "collator",
    "prepare_dataset": "datasets",
}
__all__ = ["AspoConfig", "AspoTrainer", "AspoVisionCollator", "prepare_dataset"]


def __getattr__(name: str) -> Any:
    """Import TRL, transformers and torch only when a name is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.contract").check_version()
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found  # so that it is checked once
    return found
