"""`aspo_log_samples` in TRL's trainer: the file, and a table in each tracker that the run reports to."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.training.samples import COLUMNS, TABLE
from aspo_plugin.trl import AspoConfig, AspoTrainer
from tests.support import data, samples

from .conftest import as_dataset

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = data.rows(8, 31, sentences=(2, 4))


def train(model: Any, folder: Path, steps: int = 4, resume: bool = False, **changes: Any) -> AspoTrainer:
    options: dict[str, Any] = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": steps,
        "logging_steps": 2, "learning_rate": 1e-3, "gradient_checkpointing": False, "bf16": False,
        "use_cpu": True, "save_strategy": "no", "report_to": [], "aspo_alpha": 0.3, **changes,
    }  # fmt: skip
    trainer = AspoTrainer(
        str(model("llava")), args=AspoConfig(str(folder), **options), train_dataset=as_dataset(ANSWERS)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_every_logging_step_keeps_pairs_and_a_resumed_run_goes_on(
    model: Any, tmp_path: Path, capsys: Any
) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2}
    train(model, tmp_path, aspo_log_samples=3, **saved)
    sentences = sum(len(row["chosen_sentences"]) for row in ANSWERS)
    assert (
        "ASPO: alpha 0.3, normalization weight; similarities of the dataset; 8 pairs with "
        f"{sentences} sentences, 0% of one sentence only; 0 rows refused.\n"
    ) in capsys.readouterr().err
    rows = samples.read(tmp_path)
    wanted = [(step, pair) for step in (2, 4) for pair in range(3)]
    assert list(samples.pairs(rows)) == wanted
    samples.check(rows, 0.3, ANSWERS)
    assert any(abs(row["log_ratio"]) > 1e-4 for row in rows)
    train(model, tmp_path, steps=6, resume=True, aspo_log_samples=3, **saved)
    again = samples.read(tmp_path)
    assert again[: len(rows)] == rows
    assert list(samples.pairs(again)) == [*wanted, (6, 0), (6, 1), (6, 2)]


def test_none_is_the_default(model: Any, tmp_path: Path) -> None:
    train(model, tmp_path, steps=2)
    assert not (tmp_path / "aspo_samples.jsonl").exists()


def test_trackers_get_the_same_table(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    train(model, tmp_path / "out", steps=2, report_to=["tensorboard", "wandb"], aspo_log_samples=2)
    rows = samples.read(tmp_path / "out")
    assert "takes no table" not in caplog.text
    [table] = tmp_path.glob("wandb/offline-run-*/files/media/table/aspo/*.table.json")
    found = json.loads(table.read_text())
    assert [dict(zip(found["columns"], row, strict=True)) for row in found["data"]] == rows
    board = accumulators.EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    [event] = board.Tensors("aspo/samples/text_summary")
    lines = event.tensor_proto.string_val[0].decode().splitlines()
    assert event.step == 2 and len(lines) == 2 + len(rows)
    assert all(row["text"] in line for row, line in zip(rows, lines[2:], strict=True))


ROWS = [
    [2, 0, 0, "A | cat.", 3, 0.25, 1.0, 4.5, 0.5, 0.75, 1.1, -0.5, "What?"],
    [2, 0, 1, "It sleeps.", 1, None, None, 4.5, 0.5, 0.75, 1.1, -0.5, "What?"],
]
# What a tracker's own package does with the table, in a process of its own: both keep state in theirs.
SENT = """
import json, os, sys
from aspo_plugin.training.samples import _SEND
rows = json.loads(sys.argv[1])
if sys.argv[2] == "trackio":
    import trackio
    trackio.init(project="p", name="run")
    _SEND["TrackioCallback"](None, 2, rows)
    trackio.finish()
else:
    import swanlab
    swanlab.init(project="p", mode="offline", logdir=os.environ["SWANLAB_TEST_DIR"])
    _SEND["SwanLabCallback"](None, 2, rows)
    swanlab.finish()
"""


@pytest.mark.parametrize("name", ["trackio", "swanlab"])
def test_the_table_of_a_trackers_own_package(name: str, tmp_path: Path) -> None:
    """SwanLab is in no tested environment: there this needs `pip install swanlab`."""
    pytest.importorskip(name)
    folder = tmp_path / "kept"
    settings = {"TRACKIO_DIR": str(folder), "SWANLAB_TEST_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    paths = os.pathsep.join(filter(None, (settings["PYTHONPATH"], os.environ.get("PYTHONPATH"))))
    subprocess.run(
        [sys.executable, "-c", SENT, json.dumps(ROWS), name],
        env={**os.environ, **settings, "PYTHONPATH": paths},
        cwd=tmp_path,
        check=True,
        timeout=300,
    )
    if name == "trackio":
        with closing(sqlite3.connect(next(folder.glob("*.db")))) as database:
            [(logged,)] = database.execute("select metrics from metrics").fetchall()
        found = json.loads(logged)[TABLE]["_value"]
    else:
        [file] = folder.glob("*/media/echarts/*.json")
        found = json.loads(file.read_text())["rowData"]
    assert [[row[column] for column in COLUMNS] for row in found] == ROWS
