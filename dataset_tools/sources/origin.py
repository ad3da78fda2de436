"""Where rows are really from: known only where the location, its card, or the published files say so.

A source's name, licence and citation are never taken from column names alone: a file of one's own may have
the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

CARD = "README.md"
"""A dataset's card, whose header states its licence and sources."""
_CACHED = re.compile(
    r"datasets--(?P<owner>[^/]+?)--(?P<name>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})(?:/|$)"
)


@dataclass(frozen=True)
class Origin:
    """The known dataset that rows are from, or copies of."""

    name: str
    license: str | None
    citation: str | None
    url: str | None


def origin_of(repositories: Iterable[str], names: Iterable[str]) -> Origin | None:
    """The known dataset among Hub ids (the location, and those a card declares as sources) or file names."""
    from dataset_tools.sources import REGISTRY, source_class

    wanted = {repo.lower() for repo in repositories}
    files = [PurePosixPath(name).name for name in names]
    kinds = [source_class(name) for name in REGISTRY]
    for kind in kinds:
        if wanted & {repo.lower() for repo in kind.repositories}:
            return Origin(kind.name, kind.license, kind.citation, kind.url)
    for kind in kinds:
        if any(fnmatch(name, pattern) for name in files for pattern in kind.published if kind.repositories):
            return Origin(kind.name, kind.license, kind.citation, kind.url)
    return None


def licence_of_repository(repo: str) -> str | None:
    """The licence of a known dataset or of a known copy of one."""
    found = origin_of([repo], [])
    return found.license if found else None


def declared_sources(card: Mapping[str, Any]) -> list[str]:
    """The Hub ids that a card's `source_datasets` names, `extended|` and the like left out."""
    value = card.get("source_datasets")
    items = value if isinstance(value, list) else [value]
    return [str(item).rpartition("|")[2] for item in items if item and "/" in str(item)]


def declared_licence(card: Mapping[str, Any]) -> str | None:
    """The licence that a card states: its own name for it where it is none that the Hub lists."""
    value = card.get("license")
    if isinstance(value, list):
        value = ", ".join(map(str, value)) or None
    if value in (None, "other") and card.get("license_name"):
        value = card["license_name"]
    return str(value) if value else None


def card_header(path: Path) -> dict[str, Any]:
    """The header of a dataset card; empty where there is none that can be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        found = metadata_load(path) if path.is_file() else None
    except (OSError, ValueError, YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


_OF_OTHERS = ("sdk", "app_file", "library_name", "pipeline_tag", "base_model", "model-index", "layout")


def is_of_dataset(card: Mapping[str, Any]) -> bool:
    """Whether a header tells the licence or the sources of data: not of a Space, a model or a web page."""
    told = declared_licence(card) or declared_sources(card)
    return bool(told) and not any(key in card for key in _OF_OTHERS)


def cached_repository(folder: Path) -> tuple[str, str] | None:
    """Hub id and commit of a folder inside the Hub's cache."""
    match = _CACHED.search(folder.as_posix())
    return (f"{match['owner']}/{match['name']}", match["revision"]) if match else None
