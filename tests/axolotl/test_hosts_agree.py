"""Axolotl, the plain TRL trainer and LLaMA-Factory give the same losses on the same batches."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.logprobs.pair_batch import images_twice
from aspo_plugin.trl.collator import AspoVisionCollator

STEPS = 10
ROOT = Path(__file__).resolve().parents[2]
LLAMAFACTORY = ROOT / ".venv" / "llamafactory" / "bin" / "python"
COMPARED = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "aspo/weight_mean",
    "aspo/factor_mean",
)


pytestmark = pytest.mark.skipif(
    not LLAMAFACTORY.exists(), reason="needs LLaMA-Factory's environment: make env"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model saved by the older version of Transformers, as the Hub's are: newer ones read it."""
    folder = tmp_path_factory.mktemp("model") / "llava"
    build = "import sys; from tests.support.backbones import build; build('llava', sys.argv[1])"
    subprocess.run([str(LLAMAFACTORY), "-c", build, str(folder)], cwd=ROOT, check=True, timeout=300)
    return folder


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert len(ours) == len(theirs) == STEPS
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        tolerance = 1e-5 * 10 ** (step / (STEPS - 1))  # 1e-5 at the first step, 1e-4 at the tenth
        for name in COMPARED:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance * 1e-1), (step, name)
    assert (
        max(entry["loss"] for entry in ours) - min(entry["loss"] for entry in ours) > 0.05
    )  # the runs moved


@pytest.mark.timeout(1200)
def test_every_host_gives_the_same_losses(
    train: Any, model: Path, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full fine-tuning with a reference model, on the batches that Axolotl made."""
    batches = tmp_path / "batches"
    batches.mkdir()
    with monkeypatch.context() as patched:
        record(batches, patched)
        of_axolotl = train(
            base_model=str(model), adapter=None, lora_target_modules=None, max_steps=STEPS, save_steps=STEPS
        )
    assert len(list(batches.glob("*.safetensors"))) == STEPS
    compare(run_trl(model, batches, tmp_path / "trl"), of_axolotl)
    compare(run_llamafactory(model, datasets, batches, tmp_path / "llamafactory"), of_axolotl)


def record(batches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the first batches of the collator that Axolotl and TRL use in the folder."""
    from safetensors.torch import save_file

    plain = AspoVisionCollator.__call__

    def dumping(self: AspoVisionCollator, rows: Any) -> dict[str, Any]:
        batch = images_twice(plain(self, rows))
        number = len(list(batches.glob("*.safetensors")))
        if number < STEPS:
            save_file(
                {name: value.clone() for name, value in batch.items()}, batches / f"{number:02}.safetensors"
            )
        return batch

    monkeypatch.setattr(AspoVisionCollator, "__call__", dumping)


def run_trl(model: Path, batches: Path, folder: Path) -> list[dict[str, Any]]:
    from safetensors.torch import load_file

    from aspo_plugin.trl import AspoConfig, AspoTrainer
    from tests.support import data
    from tests.trl.conftest import as_dataset

    files = iter(sorted(batches.glob("*.safetensors")))
    trainer = AspoTrainer(
        str(model),
        args=AspoConfig(
            str(folder),
            per_device_train_batch_size=2,
            max_steps=STEPS,
            logging_steps=1,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
        ),
        train_dataset=as_dataset(data.rows(24, 9)),
        data_collator=lambda rows: load_file(next(files)) if rows else {},
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def run_llamafactory(model: Path, datasets: Path, batches: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    (folder / "dataset_info.json").write_text(
        json.dumps(
            {
                "many": {
                    "file_name": str(datasets / "many/data/train-00000.parquet"),
                    "formatting": "aspo",
                    "ranking": True,
                }
            }
        )
    )
    settings = folder / "settings.json"
    settings.write_text(
        json.dumps(
            {
                "stage": "aspo",
                "do_train": True,
                "model_name_or_path": str(model),
                "template": "llava",
                "finetuning_type": "full",
                "freeze_vision_tower": False,
                "freeze_multi_modal_projector": False,
                "dataset_dir": str(folder),
                "dataset": "many",
                "cache_dir": str(folder / "cache"),
                "output_dir": str(folder / "out"),
                "per_device_train_batch_size": 2,
                "max_steps": STEPS,
                "logging_steps": 1,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "constant",
                "disable_gradient_checkpointing": True,
                "use_cpu": True,
                "report_to": "none",
                "save_strategy": "no",
            }
        )
    )
    subprocess.run(
        [
            str(LLAMAFACTORY),
            str(Path(__file__).with_name("replay_llamafactory.py")),
            str(batches),
            str(settings),
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{LLAMAFACTORY.parent}{os.pathsep}{os.environ['PATH']}"},
        check=True,
        timeout=400,
    )
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]
