"""What a run leaves beside the weights: the settings it used, and a model card that names ASPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aspo_plugin import __version__
from aspo_plugin.config import AspoSettings
from aspo_plugin.training.files import ARGS
from aspo_plugin.training.model_card import RECORD, add_section, dataset_row, scorer_of
from aspo_plugin.training.model_card import scorer_names as known_scorers

TAGS = ["aspo"]


def settings_rows(finetuning_args: Any, settings: AspoSettings) -> dict[str, Any]:
    """The settings of the method, as a reader of the card needs them."""
    return {
        "pref_beta": finetuning_args.pref_beta,
        "pref_ftx": finetuning_args.pref_ftx,
        **settings.told(),
        "ref_model": finetuning_args.ref_model,
    }


def dataset_sources(data_args: Any) -> list[tuple[str, str]]:
    """Name and revision of each dataset; a folder of `aspo-data` knows what it was made of."""
    folder = data_args.dataset_dir
    if isinstance(folder, str) and (Path(folder) / RECORD).is_file():
        return [dataset_row(folder)]
    return [dataset_row(name) for name in data_args.dataset or []]


def scorers(data_args: Any) -> dict[str, Any] | None:
    """What scored the sentences of the folder that is trained on."""
    return scorer_of(data_args.dataset_dir) if isinstance(data_args.dataset_dir, str) else None


def scorer_names(data_args: Any, settings: AspoSettings) -> list[str]:
    """The models that scored the training sets, as far as the folders they lie in tell."""
    from llamafactory.data.parser import get_dataset_list

    folder, paths = data_args.dataset_dir, []
    if isinstance(folder, str) and (Path(folder) / "dataset_info.json").is_file():
        for attribute in get_dataset_list(data_args.dataset, folder):
            if attribute.load_from == "file":
                inside = (Path(folder) / attribute.dataset_name).parents
                paths += [path for path in inside if path.is_relative_to(folder)]
    return known_scorers(paths, settings.similarity_model if settings.alpha > 0 else None)


def save_args(
    output_dir: str,
    finetuning_args: Any,
    host_version: str,
    counts: dict[str, Any],
    datasets: list[tuple[str, str]],
) -> None:
    """Write `aspo_args.json`: finetuning arguments, versions, datasets, refused rows by reason."""
    record = {
        "aspo_plugin": __version__,
        "llamafactory": host_version,
        "finetuning_args": finetuning_args.to_dict(),
        "data": counts,
        "datasets": datasets,
    }
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=2, default=str, ensure_ascii=False)
    (folder / ARGS).write_text(text + "\n", encoding="utf-8")


def describe(output_dir: str, finetuning_args: Any, settings: AspoSettings) -> None:
    """Add the ASPO section to the README.md that the trainer wrote; datasets as `save_args` kept them."""
    record = json.loads((Path(output_dir) / ARGS).read_text(encoding="utf-8"))
    add_section(output_dir, settings_rows(finetuning_args, settings), record["datasets"])
