"""Who scored the shards of a converted dataset, as each says in its metadata, and whether they agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import read_footer, shards
from dataset_tools.errors import DataError, UsageError

SCORER_KEY = b"aspo_scorer"


def scored_by(path: Path) -> dict[str, Any]:
    """Who scored a shard, with its counts; empty for an unscored one."""
    value = (read_footer(path).metadata or {}).get(SCORER_KEY)
    try:
        state = json.loads(value) if value else {}
        if not isinstance(state.get("counts", {}), dict) or not isinstance(state.get("unreadable", []), list):
            raise ValueError("its counts are none")
        return state
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} says in an odd way who scored it ({error}): fetch or convert it again."
        ) from None


def check_scoring(folder: Path) -> None:
    """Raise `UsageError` where `scoring_problem` finds one, for what is about to be pushed."""
    problem = scoring_problem(folder, read_record(folder), shards(folder))
    if problem:
        raise UsageError(f"{problem}, then push.")


def scoring_problem(folder: Path, record: dict[str, Any], paths: list[Path]) -> str | None:
    """What is wrong where the shards are scored by halves, by several models, or unknown to the record."""
    states = [scored_by(path) for path in paths]
    scored = sum(map(bool, states))
    # Where the weights were loaded in another dtype, the model is the same.
    apart = ("counts", "unreadable", "rejected", "dtype")
    models: dict[str, str] = {}
    for path, state in zip(paths, states, strict=True):
        if state:
            by = {name: value for name, value in state.items() if name not in apart}
            models.setdefault(json.dumps(by, sort_keys=True), path.name)
    if len(models) > 1:
        named = ", ".join(f"{name} by {_called(json.loads(by))}" for by, name in models.items())
        found = f"the shards of {folder} are scored by {len(models)} models ({named})"
        return f"{found}: run `aspo-data score` again"
    if record.get("scorer") is None and scored:
        rest = "does the others" if scored < len(states) else "notes by which model"
        found = f"{scored} of {len(states)} shards of {folder} are scored"
        return f"{found}: run `aspo-data score` again, which {rest}"
    return None


def _called(state: dict[str, Any]) -> str:
    version = state.get("revision") or state.get("fingerprint")
    return f"{state.get('model')}{f' ({str(version)[:8]})' if version else ''}"
