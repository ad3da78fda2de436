"""Which models stand behind a name: a run's output, one of its checkpoints, an adapter, or any model."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.files import RUN
from dataset_tools.errors import UsageError

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Run:
    """`before`: the model that training began with; `after`: the one it made, None for a model alone.

    With an `adapter`, `after` is its folder and is laid over `before`.
    """

    name: str
    before: str
    after: str | None
    adapter: bool
    settings: AspoSettings


def find_run(name: str, before: str | None = None, **settings: Any) -> Run:
    """The run called `name`; `before` where its files do not tell, `settings` that are not None over its own.

    Raises `UsageError` where the folder holds no model, or the model before training is not known.
    """
    folder = Path(name)
    record = _record(folder)
    known = {
        item.name: record.get("settings", {}).get(item.name, item.default) for item in fields(AspoSettings)
    }
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
        return Run(name, base, name, True, own)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            held = sorted(path.name for path in folder.glob("checkpoint-*"))
            hint = f"Its checkpoints are {', '.join(held)}." if held else "Give a run's output folder."
            raise UsageError(f"{name} holds no model and no adapter. {hint}")
        if base := before or record.get("model"):
            return Run(name, base, name, False, own)
        return Run(name, name, None, False, own)
    if folder.suffix in (".yaml", ".yml", ".jsonl", ".json") or name.startswith((".", "/", "~")):
        raise UsageError(f"{name} does not exist.")
    return Run(name, before or name, name if before else None, False, own)


def _record(folder: Path) -> dict[str, Any]:
    """What the run wrote as it began, into its output folder; a checkpoint lies inside that."""
    for place in (folder, folder.parent):
        if (place / RUN).is_file():
            found: dict[str, Any] = json.loads((place / RUN).read_text(encoding="utf-8"))
            return found
    return {}
