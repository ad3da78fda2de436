"""`aspo-data export`: the dataset as a plain file of another tool."""

from __future__ import annotations


def export() -> None:
    """Write the dataset as one plain file of LLaMA-Factory or TRL."""
    raise NotImplementedError
