"""A run resumes with the objective it was begun with, or says that it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from aspo_plugin.config import AspoSettings

FILE = "aspo_settings.json"  # in every checkpoint


class ChangedSettings(ValueError):
    """A checkpoint was trained with another objective than the run that resumes it."""


def objective(settings: AspoSettings, name: str, **more: Any) -> dict[str, Any]:
    """What a step learns for, as its user writes it: every setting but those of speed, and `more`."""
    values = asdict(settings)
    decides = [item.name for item in fields(settings) if not item.metadata.get("speed")]
    return {**{name.format(key): values[key] for key in decides}, **more}


def remember(checkpoint: str | Path, values: Mapping[str, Any]) -> None:
    """Leave the objective in a checkpoint's folder."""
    folder = Path(checkpoint)
    if folder.is_dir():
        text = json.dumps(dict(values), indent=1, default=str, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def check_resumed(checkpoint: str | Path, values: Mapping[str, Any]) -> None:
    """Raise `ChangedSettings` where `checkpoint` was trained with another objective than `values`.

    A checkpoint without `FILE` (of another program, or where the user removed it to go on with new settings)
    is taken as it is.
    """
    path = Path(checkpoint) / FILE
    if not path.is_file():
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        then = None
    if not isinstance(then, dict):
        raise ChangedSettings(f"{path} cannot be read: delete it to resume with the settings of this run.")
    now = json.loads(json.dumps(dict(values), default=str))
    changed = [
        f"{key} was {then[key]}, now {now[key]}" for key in now if key in then and then[key] != now[key]
    ]
    if changed:
        raise ChangedSettings(
            f"{checkpoint} was trained with another objective: {'; '.join(changed)}. One run would learn two "
            "things. Set it back, or begin anew in another output folder; to go on with the new settings all "
            f"the same, delete {path}."
        )


class SameObjective:
    """For trainers of `transformers`, before the trainer class in the bases; `follow` names the objective."""

    _objective: Mapping[str, Any] | None = None

    def follow(self, values: Mapping[str, Any]) -> None:
        """From now on every checkpoint keeps `values`, and none with other values is resumed."""
        self._objective = values
        self.add_callback(_Remember(values))  # type: ignore[attr-defined]

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        path = resume_from_checkpoint
        if path is True:
            path = get_last_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        if path and self._objective is not None:
            check_resumed(path, self._objective)
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]


class _Remember(TrainerCallback):
    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            remember(Path(args.output_dir) / f"checkpoint-{state.global_step}", self._values)
