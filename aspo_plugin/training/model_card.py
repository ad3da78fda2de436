"""The section on ASPO in the model card of a run: method, hyper-parameters, datasets and their revisions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aspo_plugin import __version__

HEADING = "## ASPO"
SECTION = """
{heading}

Trained with [ASPO](https://arxiv.org/abs/2505.19100) (Adaptive Sentence-level Preference Optimization, ACL
2025 Findings), which weights the sentences of the chosen response, by aspo-plugin {version}.

| Setting | Value |
|---|---|
{settings}

| Dataset | Revision |
|---|---|
{datasets}
"""
# What `aspo-data convert` keeps beside the rows (`dataset_tools.dataset.record`).
RECORD = "aspo.json"


def dataset_row(path: str, revision: str | None = None) -> tuple[str, str]:
    """Name and revision of the dataset at `path`: a Hub name, or a folder.

    A folder of `aspo-data` knows the dataset it was made of, at which commit, and what scored it.
    """
    record = Path(path) / RECORD
    if not record.is_file():
        return f"`{Path(path).name if Path(path).exists() else path}`", revision or "not recorded"
    known = json.loads(record.read_text(encoding="utf-8"))
    source, scorer = known.get("source") or {}, known.get("scorer") or {}
    name = f"`{source.get('location') or source.get('name')}`, converted by aspo-data"
    if scorer:
        name += f", scored by `{scorer.get('model')}`"
        name += f" at {scorer['revision']}" if scorer.get("revision") else ""
    return name, revision or source.get("revision") or "not recorded"


def scorer_of(path: str | Path) -> dict[str, Any] | None:
    """What scored the sentences of a folder of `aspo-data`; None where that is not known."""
    record = Path(path) / RECORD
    return json.loads(record.read_text(encoding="utf-8")).get("scorer") if record.is_file() else None


def scorer_names(paths: Iterable[str | Path], model: str | None) -> list[str]:
    """The models that scored the folders of `aspo-data` among `paths`, and `model`, for the others."""
    found = [(scorer_of(path) or {}).get("model") for path in paths]
    return [name for name in dict.fromkeys([*found, model]) if name]


def add_section(
    output_dir: str | Path, settings: Mapping[str, Any], datasets: Sequence[tuple[str, str]]
) -> None:
    """Add the section to `output_dir`'s README.md, once. Settings that are None are left out."""
    path = Path(output_dir) / "README.md"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    if f"\n{HEADING}\n" in text:
        return
    section = SECTION.format(
        heading=HEADING,
        version=__version__,
        settings="\n".join(f"| `{key}` | {value} |" for key, value in settings.items() if value is not None),
        datasets="\n".join(f"| {name} | {revision} |" for name, revision in datasets),
    )
    path.write_text(text + section, encoding="utf-8")
