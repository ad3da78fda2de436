"""Adapters that begin by rewriting the base model, without which it is no reference any more."""

from __future__ import annotations

from typing import Any

# Initialisations of PEFT that take the adapter's first value out of the base model's weights, by how their
# names begin. (EVA, MiCA and the orthogonal one leave the base as it is, and the adapter adds nothing.)
_REWRITING = ("pissa", "olora", "loftq", "corda", "lora_ga")


def rewrites_base(init: Any) -> bool:
    """Whether an `init_lora_weights` of PEFT changes the base model's own weights."""
    return isinstance(init, str) and init.lower().startswith(_REWRITING)


def wrong_reference(init: Any, setting: str) -> ValueError:
    """Of a run whose reference would be the base model without such an adapter."""
    return ValueError(
        f"{setting} is {init!r}, which takes the adapter's first value out of the base model's weights: "
        "without the adapter that is another model than the one training starts from, and the reference "
        "would be wrong from the first step. Leave it out, or take gaussian, orthogonal or eva, which "
        "change no weight of the base."
    )
