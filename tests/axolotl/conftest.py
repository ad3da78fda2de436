"""Tiny models, drawn data and a base config, made once; most runs go through Axolotl's entry functions."""

from __future__ import annotations

import os

os.environ.update(
    AXOLOTL_DO_NOT_TRACK="1",
    CUDA_VISIBLE_DEVICES="",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import backbones, data

Log = list[dict[str, Any]]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llava`, `text` and `clip`."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("llava", "text", "clip"):
        backbones.build(name, folder / name)
    return folder


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as `aspo-data` writes them (`many`, `eval`, `unscored`), `trl`, `plain.jsonl`, and its
    pairs in `begun.jsonl`, whose answers begin with the end of the prompts."""
    folder = tmp_path_factory.mktemp("datasets")
    data.write_converted(folder / "many", data.rows(24, 1, sentences=(3, 5)))
    data.write_converted(folder / "eval", data.rows(4, 2, sentences=(3, 5)))
    data.write_converted(folder / "unscored", data.rows(8, 3, sentences=(2, 4), similarity=False))
    data.write_trl(folder / "trl", data.rows(8, 4, sentences=(2, 4)))
    with open(folder / "plain.jsonl", "w", encoding="utf-8") as stream:
        for row in data.rows(24, 5, sentences=1, text_only=True):
            pair = {name: row[name][-1]["content"] for name in ("prompt", "chosen", "rejected")}
            # A space at the end of a prompt merges with the first word, which TRL then drops and ASPO keeps.
            stream.write(json.dumps(pair | {"prompt": f"Question: {pair['prompt']}\nAnswer:\n"}) + "\n")
    with open(folder / "begun.jsonl", "w", encoding="utf-8") as stream:
        for line in (folder / "plain.jsonl").read_text(encoding="utf-8").splitlines():
            pair, context = json.loads(line), "Answer:\n"
            pair |= {name: context + pair[name] for name in ("chosen", "rejected")}
            pair |= {"prompt": pair["prompt"].removesuffix(context), "untrained_prefix": len(context)}
            stream.write(json.dumps(pair) + "\n")
    return folder


@pytest.fixture(autouse=True)
def saved_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` 5 starts an interpreter to save with `num_proc=1`: most of the time of a run here."""
    from datasets import Dataset

    original = Dataset.save_to_disk

    def save(self: Any, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        original(self, *args, num_proc=None if num_proc == 1 else num_proc, **kwargs)

    monkeypatch.setattr(Dataset, "save_to_disk", save)


@pytest.fixture
def config(models: Path, datasets: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of two steps that a test changes as it needs."""
    return {
        "base_model": str(models / "llava"),
        "plugins": ["aspo_plugin.axolotl.AspoPlugin"],
        "rl": "aspo",
        "aspo": {"alpha": 0.5},
        "datasets": [{"path": str(datasets / "many")}],
        "dataset_prepared_path": str(tmp_path / "prepared"),
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "sequence_len": 512,
        "output_dir": str(tmp_path / "out"),
        "adapter": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_target_modules": r".*language_model.*\.(q_proj|v_proj|down_proj)",
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "gradient_checkpointing": False,
        "max_steps": 2,
        "save_steps": 2,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "lr_scheduler": "constant",
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "logging_steps": 1,
        "bf16": False,
        "fp16": False,
        "tf32": False,
    }


def write(config: dict[str, Any], folder: Path) -> str:
    """The config as a YAML file; keys set to None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return str(path)


def history(output_dir: str | Path) -> Log:
    """What was logged at the training steps."""
    checkpoints = sorted(Path(output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((checkpoints[-1] / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], tmp_path: Path) -> Callable[..., str]:
    """Run one of Axolotl's commands in this process on the config with changes; gives the output folder."""

    def run(name: str = "train", **changes: Any) -> str:
        import importlib

        changed = {**config, **changes}
        monkeypatch.setattr("sys.argv", ["axolotl"])
        monkeypatch.setenv("AXOLOTL_IS_PREPROCESS", "0")  # `preprocess` leaves it set
        path = write(
            changed, Path(changed["output_dir"]).with_name(Path(changed["output_dir"]).name + "-config")
        )
        importlib.import_module(f"axolotl.cli.{name}").do_cli(config=path)
        return changed["output_dir"]

    return run


@pytest.fixture
def train(command: Callable[..., str]) -> Callable[..., Log]:
    """Train in this process and give the log."""
    return lambda **changes: history(command("train", **changes))
