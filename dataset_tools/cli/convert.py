"""`aspo-data convert`: a source dataset to a sentence-annotated one."""

from __future__ import annotations


def convert() -> None:
    """Convert a preference dataset to a sentence-annotated one."""
    raise NotImplementedError
