"""Sentence-annotated multimodal preference datasets: the `aspo-data` tool and its parts."""

from __future__ import annotations

__all__ = ["foreign_distributions"]


def foreign_distributions() -> list[str]:
    """Other installed distributions with a top-level `dataset_tools`, as "name version".

    They overwrite files of ours, or ours theirs, whichever was installed last; removing one breaks the other.
    """
    from dataset_tools.installed import foreign_distributions as find

    return find()
