"""What a run leaves beside the weights: the settings it used, and a model card that names ASPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aspo_plugin import __version__
from aspo_plugin.config import AspoSettings

TAGS = ["aspo"]
SECTION = """
## ASPO

Trained with [ASPO](https://arxiv.org/abs/2505.19100) (Adaptive Sentence-level Preference Optimization, ACL
2025 Findings), which weights the sentences of the chosen response, by aspo-plugin {version}.

| Setting | Value |
|---|---|
{rows}
"""
ARGS_FILE = "aspo_args.json"


def settings_rows(finetuning_args: Any, settings: AspoSettings) -> dict[str, Any]:
    """The settings of the method, as a reader of the card needs them."""
    return {
        "pref_beta": finetuning_args.pref_beta,
        "pref_ftx": finetuning_args.pref_ftx,
        "aspo_alpha": settings.alpha,
        "aspo_normalization": settings.normalization,
        "aspo_similarity_model": settings.similarity_model,
        "ref_model": finetuning_args.ref_model,
    }


def save_args(output_dir: str, finetuning_args: Any, host_version: str, counts: dict[str, Any]) -> None:
    """Write `aspo_args.json`: finetuning arguments, versions, and how many rows were refused, and why."""
    record = {
        "aspo_plugin": __version__,
        "llamafactory": host_version,
        "finetuning_args": finetuning_args.to_dict(),
        "data": counts,
    }
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, default=str, ensure_ascii=False)
    (folder / ARGS_FILE).write_text(text + "\n", encoding="utf-8")


def describe(output_dir: str, finetuning_args: Any, settings: AspoSettings) -> None:
    """Add the ASPO section to the README.md that the trainer wrote."""
    rows = "\n".join(
        f"| `{name}` | {value} |"
        for name, value in settings_rows(finetuning_args, settings).items()
        if value is not None
    )
    path = Path(output_dir) / "README.md"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if "\n## ASPO\n" not in text:
            path.write_text(text + SECTION.format(version=__version__, rows=rows), encoding="utf-8")
