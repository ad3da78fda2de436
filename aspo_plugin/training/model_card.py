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
    source, scorer = _recorded(path, "source"), _recorded(path, "scorer")
    if not source:
        return _code(Path(path).name if Path(path).exists() else path), revision or "not recorded"
    name = f"{_code(source.get('location') or source.get('name'))}, converted by aspo-data"
    if scorer:
        name += f", scored by {_code(scorer.get('model'))}"
        name += f" at {_commit(scorer['revision'])}" if scorer.get("revision") else ""
    return name, revision or _commit(source.get("revision") or "not recorded")


def scorer_of(path: str | Path) -> dict[str, Any] | None:
    """What scored the sentences of a folder of `aspo-data`; None where that is not known."""
    return _recorded(path, "scorer") or None


def _recorded(path: str | Path, part: str) -> dict[str, Any]:
    """A part of a folder's record, {} where it is not as `aspo-data` has it (it may be a stranger's)."""
    from dataset_tools.images.opening import UnusableImage, file_bytes

    record = Path(path) / RECORD
    try:
        known = json.loads(file_bytes(record)) if record.is_file() else {}
    except (UnusableImage, ValueError, RecursionError):
        known = {}
    found = known.get(part) if isinstance(known, dict) else None
    return found if isinstance(found, dict) else {}


def _code(text: Any) -> str:
    """A text that is not ours, in a code span of one cell."""
    return f"`{''.join(c for c in str(text)[:200] if c.isprintable() and c not in '`|')}`"


def _commit(text: Any) -> str:
    """A commit as it is, anything else as `_code`."""
    return str(text) if str(text).replace(" ", "").isalnum() else _code(text)


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
