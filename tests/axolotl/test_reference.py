"""Which model the reference is, and when there is none in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .test_runs import same


def test_a_cache_in_full_fine_tuning_holds_one_model(
    train: Any, command: Any, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run with the live reference, twice; `axolotl evaluate` holds the result against the base model."""
    from axolotl.loaders import ModelLoader
    from trl.trainer import dpo_trainer

    loads: list[bool] = []
    load = ModelLoader.load
    monkeypatch.setattr(ModelLoader, "load", lambda self: loads.append(self.reference_model) or load(self))
    monkeypatch.setattr(dpo_trainer, "create_model_from_path", lambda *a, **k: pytest.fail("one more model"))
    common = {
        "adapter": None,
        "lora_target_modules": None,
        "test_datasets": [{"path": str(datasets / "eval")}],
        "eval_steps": 3,
        "max_steps": 3,
        "save_steps": 3,
    }
    live = train(**common, output_dir=str(tmp_path / "live"))
    assert loads == [False, True]
    loads.clear()
    cached = {**common, "aspo": {"alpha": 0.5, "reference_cache": str(tmp_path / "reference")}}
    same(train(**cached), live, rel=2e-5)
    assert loads == [False]

    out = tmp_path / "out"
    command("evaluate", **cached)
    summary = dict(line.split(",")[::2] for line in (out / "eval_summary.csv").read_text().splitlines()[1:])
    for folder in (out, tmp_path / "live"):
        state = json.loads((folder / "checkpoint-3" / "trainer_state.json").read_text())
        trained = [entry for entry in state["log_history"] if "eval_loss" in entry][-1]
        assert float(summary["loss"]) == pytest.approx(trained["eval_loss"], rel=1e-5)
        assert float(summary["rewards/margins"]) == pytest.approx(trained["eval_rewards/margins"], rel=1e-4)
    assert float(summary["loss"]) != pytest.approx(0.6931, abs=1e-3)
    with pytest.raises(ValueError, match="holds no model to evaluate: train first"):
        command("evaluate", **cached, output_dir=str(tmp_path / "nothing"))


def test_training_goes_on_from_an_adapter_whose_copy_is_the_reference(
    train: Any, command: Any, datasets: Path, tmp_path: Path
) -> None:
    """And `axolotl evaluate`, where there is no such copy, leaves the cache of the training alone."""
    first = train(learning_rate=0.01)
    going_on = {
        "lora_model_dir": str(tmp_path / "out"),
        "output_dir": str(tmp_path / "again"),
        "aspo": {"alpha": 0.5, "reference_cache": str(tmp_path / "reference")},
        "test_datasets": [{"path": str(datasets / "eval")}],
    }
    again = train(**going_on)
    # The same first batch, by the adapter and not by the base model; the reference agrees with it.
    assert again[0]["logps/chosen"] != pytest.approx(first[0]["logps/chosen"], abs=0.1)
    assert again[0]["rewards/chosen"] == again[0]["rewards/rejected"] == 0
    assert again[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert again[1]["rewards/margins"] != 0
    assert (tmp_path / "again" / "adapter_model.safetensors").exists()
    command("evaluate", **going_on)
    assert (tmp_path / "again" / "eval_summary.csv").is_file()
