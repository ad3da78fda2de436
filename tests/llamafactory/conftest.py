"""Tiny models, drawn data and a base recipe, made once; most runs call the host's run_exp in-process."""

from __future__ import annotations

import os

os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    DO_NOT_TRACK="1",
    LLAMAFACTORY_VERBOSITY="WARN",
)

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones, data

Train = Callable[..., list[dict[str, Any]]]
# transformers 4, which LLaMA-Factory 0.9.4 wants, logs losses with four digits.
LOGGED_DIGITS = 6e-5 if version("transformers").startswith("4.") else 0.0


def needs_template(name: str) -> None:
    """Skip the test where this version of the host has no such template."""
    from llamafactory.data.template import TEMPLATES

    if name not in TEMPLATES:
        pytest.skip(f"this LLaMA-Factory has no template {name}")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`llava`, `reference` (the same with other weights), `clip`."""
    import torch
    from transformers import AutoModelForImageTextToText

    folder = tmp_path_factory.mktemp("models")
    for name in ("llava", "clip"):
        backbones.build(name, folder / name)
    shutil.copytree(folder / "llava", folder / "reference")
    model = AutoModelForImageTextToText.from_pretrained(folder / "llava", dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder / "reference")
    return folder


def write_sets(folder: Path, sets: dict[str, list[dict[str, Any]]]) -> Path:
    """A `dataset_dir` of converted datasets, one per entry."""
    info = {}
    for name, rows in sets.items():
        data.write_converted(folder / name, rows)
        info[name] = {
            "file_name": f"{name}/data/train-00000.parquet",
            "formatting": "aspo",
            "ranking": True,
        }
    path = folder / "dataset_info.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **info}))
    return folder


@pytest.fixture(scope="session")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `dataset_dir`: `many` (3 to 5 sentences), `one` (single sentences), `unscored`, `text`."""
    return write_sets(
        tmp_path_factory.mktemp("datasets"),
        {
            "many": data.rows(40, 1, sentences=(3, 5)),
            "one": data.rows(40, 2, sentences=1),
            "unscored": data.rows(8, 3, sentences=(2, 4), similarity=False),
            "text": data.rows(8, 4, text_only=True),
        },
    )


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe(models: Path, datasets: Path, cache: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of 2 steps that a test changes as it needs."""
    return {
        "stage": "aspo",
        "do_train": True,
        "model_name_or_path": str(models / "llava"),
        "template": "llava",
        "finetuning_type": "lora",
        "lora_rank": 4,
        "dataset_dir": str(datasets),
        "dataset": "many",
        "cache_dir": str(cache),
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "save_strategy": "no",
    }


def history(output_dir: str | Path) -> list[dict[str, Any]]:
    """What the host logged, one entry per logging step."""
    return json.loads((Path(output_dir) / "trainer_state.json").read_text())["log_history"]


@pytest.fixture
def train(recipe: dict[str, Any]) -> Train:
    """Run the recipe with changes through the host's entry function and return its training log."""

    def run(**changes: Any) -> list[dict[str, Any]]:
        from llamafactory.train.tuner import run_exp

        changed = {key: value for key, value in {**recipe, **changes}.items() if value is not None}
        run_exp(changed)
        return [entry for entry in history(changed["output_dir"]) if "loss" in entry]

    return run


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What this package warns of through the host's logger (which does not propagate to pytest's)."""
    messages: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Keep(level=logging.WARNING)
    logger = logging.getLogger("llamafactory.aspo")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def cli(*arguments: str | Path, timeout: int = 420, **environment: str) -> subprocess.CompletedProcess[str]:
    """The host's own `llamafactory-cli` in a process of its own; torchrun is found on PATH."""
    folder = Path(sys.executable).parent
    return subprocess.run(
        [str(folder / "llamafactory-cli"), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **environment},
    )
