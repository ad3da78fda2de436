"""`aspo-data validate`: every invariant of the schema, checked."""

from __future__ import annotations


def validate() -> None:
    """Check every invariant of a converted dataset."""
    raise NotImplementedError
