"""TRL reads the broken set as every host must: see `tests.support.broken`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.trl import AspoConfig, AspoTrainer
from tests.support import broken

from .conftest import as_dataset


@pytest.mark.parametrize("name", ["training", "evaluation"])
def test_broken_rows_are_refused_as_in_every_host(name: str, model: Any, tmp_path: Path) -> None:
    rows, expected = broken.rows(tmp_path)
    dataset = as_dataset(rows)
    sound = as_dataset(rows[:1])
    args = AspoConfig(str(tmp_path / "out"), use_cpu=True, report_to="none", aspo_weight_rejected=False)
    given = (dataset, None) if name == "training" else (sound, dataset)
    trainer = AspoTrainer(str(model("llava")), args=args, train_dataset=given[0], eval_dataset=given[1])
    read = trainer.train_dataset if name == "training" else trainer.eval_dataset
    assert len(read) == len(rows) - len(expected)
    broken.check("trl", tmp_path / "out" / "aspo_rejected.jsonl", rows, expected, name)
