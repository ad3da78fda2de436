"""Which models stand behind a name: a run's output, one of its checkpoints, an adapter, or any model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.files import RUN
from dataset_tools.errors import UsageError
from dataset_tools.nearest import nearest, not_here

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Run:
    """`before`: the model that training began with; `after`: the one it made, None for a model alone.

    With an `adapter`, `after` is its folder and is laid over `before`. `template`: the host's own, by which
    the run trained in place of the processor's.
    """

    name: str
    before: str
    after: str | None
    adapter: bool
    settings: AspoSettings
    template: str | None = None


def find_run(name: str, before: str | None = None, **settings: Any) -> Run:
    """The run called `name`; `before` where its files do not tell, `settings` that are not None over its own.

    Raises `UsageError` where the folder holds no model, or the model before training is not known.
    """
    folder = Path(name)
    record = _record(folder)
    known = {
        item.name: record.get("settings", {}).get(item.name, item.default) for item in fields(AspoSettings)
    }
    template = record.get("template")
    own = replace(AspoSettings(**known), **{k: v for k, v in settings.items() if v is not None})
    try:
        own.validate("--{}")
    except ValueError as error:
        raise UsageError(str(error)) from None
    if (folder / ADAPTER).is_file():
        adapter = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        base = before or adapter.get("base_model_name_or_path")
        if not base:
            raise UsageError(f"{folder / ADAPTER} does not name its base model: give it with --before.")
        _check_base(base, before)
        return Run(name, base, name, True, own, template)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            held = sorted(path.name for path in folder.glob("checkpoint-*"))
            hint = f"Its checkpoints are {', '.join(held)}." if held else "Give a run's output folder."
            raise UsageError(f"{name} holds no model and no adapter. {hint}")
        if base := before or record.get("model"):
            _check_base(base, before)
            return Run(name, base, name, False, own, template)
        return Run(name, name, None, False, own)
    if problem := not_here(name) or _nearly_a_run(name):
        raise UsageError(problem)
    if before:
        _check_base(before, before)
    return Run(name, before or name, name if before else None, False, own)


def _check_base(base: str, before: str | None) -> None:
    """Raise `UsageError` where the model before training can only be a path and does not exist."""
    if not Path(base).expanduser().exists() and (problem := not_here(base)):
        raise UsageError(
            problem if before else f"the model before training is not found: {problem} Give it with --before."
        )


def _nearly_a_run(name: str) -> str | None:
    """Why owner/name is not asked of the Hub where a run here is called nearly so; None where none is."""
    folder = Path(name)
    if not folder.parent.is_dir():
        return None
    for near in nearest(folder.name, sorted(other.name for other in folder.parent.iterdir())):
        found = folder.parent / near
        if (found / RUN).is_file() or (found / ADAPTER).is_file() or any(found.glob("checkpoint-*")):
            return f"{name} does not exist. Did you mean {found}?"
    return None


def _record(folder: Path) -> dict[str, Any]:
    """What the run wrote as it began, into its output folder; a checkpoint lies inside that."""
    for place in (folder, folder.parent):
        if (place / RUN).is_file():
            found: dict[str, Any] = json.loads((place / RUN).read_text(encoding="utf-8"))
            return found
    return {}
