"""The study trains in-process for speed: the same losses, step by step, as the host's run of the same pairs,
which went through the layout, the conversion and the scoring that a user's pairs go through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from demo.data import write_rlaif_v
from study.pairs import load, seva
from study.teach import TAUGHT
from study.train import METHODS, Budget, train

ROOT = Path(__file__).resolve().parents[2]
BUDGET = Budget(learning_rate=1e-3, epochs=2, batch=8, warmup=1)
HOST = {
    "aspo 0.5": ["aspo_alpha=0.5"],
    "dpo": ["stage=dpo", "aspo_alpha=null", "aspo_normalization=null"],
}


def run(*command: str) -> None:
    environment = dict(
        os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", DO_NOT_TRACK="1"
    )
    program = str(Path(sys.executable).parent / command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`: 32 pairs, converted and scored by `aspo-data`."""
    made = tmp_path_factory.mktemp("host")
    write_rlaif_v(made / "raw", seva(load(TAUGHT), 32, seed=5))
    run("aspo-data", "convert", str(made / "raw"), str(made / "data"), "--from", "rlaif-v")
    run("aspo-data", "score", str(made / "data"), "--model", str(TAUGHT / "clip"))
    return made


@pytest.mark.parametrize("name", HOST)
def test_losses_are_the_hosts(name: str, folder: Path) -> None:
    world = load(TAUGHT)
    _, steps = train(world, seva(world, 32, seed=5), METHODS[name], BUDGET, 0, shuffle=False)
    out = folder / name.replace(" ", "-")
    changes = {
        "model_name_or_path": TAUGHT / "llava",
        "dataset_dir": folder / "data",
        "output_dir": out,
        "learning_rate": BUDGET.learning_rate,
        "per_device_train_batch_size": BUDGET.batch,
        "warmup_steps": BUDGET.warmup,
        "logging_steps": 1,
        "disable_shuffling": "true",
        "plot_loss": "false",
    }
    given = [f"{key}={value}" for key, value in changes.items()]
    run("llamafactory-cli", "train", "demo/recipe.yaml", *HOST[name], *given)
    logged = json.loads((out / "trainer_state.json").read_text())["log_history"]
    found = [entry["loss"] for entry in logged if "loss" in entry]
    expected = [loss for loss, _ in steps]
    assert len(found) == len(expected) == 8 and found[-1] < 0.65
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-3, atol=1e-4)
