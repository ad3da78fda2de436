"""Several processes, forked from this one: DeepSpeed, and sets where only some pairs have images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import history, write
from .test_runs import same


def forked_train(config: dict[str, Any], folder: Path, processes: int) -> list[dict[str, Any]]:
    """`axolotl train` on gloo processes, as torchrun starts them; its log."""
    from tests.recipes.hosts import forked

    path = write(config, folder)

    def call() -> None:
        import sys

        from accelerate.state import AcceleratorState, GradientState, PartialState
        from axolotl.cli.train import do_cli
        from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

        for state in (AcceleratorState, PartialState, GradientState):
            state._shared_state.clear()  # of the runs before this one
        # Collectives over shared memory, used by inference alone: minutes to compile, so gloo's are taken.
        ShareMemCommBuilder.is_compatible = lambda *args, **kwargs: False
        sys.argv = ["axolotl"]
        do_cli(config=path)

    forked(call, folder / "log", processes, timeout=500)
    return history(config["output_dir"])


def zero(stage: int, folder: Path) -> str:
    """The recipes' DeepSpeed configuration, at `stage`."""
    values = json.loads(Path("recipes/shared/zero3.json").read_text())
    values["zero_optimization"] = {"stage": stage, "overlap_comm": False}
    path = folder / f"zero{stage}.json"
    path.write_text(json.dumps(values))
    return str(path)


def test_deepspeed_is_one_process_and_pairs_without_images_stop_nobody(
    config: Any, train: Any, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZeRO-2, and ZeRO-3 with the reference cache, on two processes that meet batches with images and without
    at the same time, against one process that has both in a batch. The vision tower is trained too."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    common = {
        "datasets": [{"path": str(datasets / name)} for name in ("many", "plain.jsonl")],
        "max_steps": 3,
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "adapter": None,
        "lora_target_modules": None,
        # Adam counts the steps of a weight without a gradient under ZeRO, and not without it.
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "seed": 11,
    }
    one = train(**common, output_dir=str(tmp_path / "one"))
    shares = [entry["aspo/missing_similarity_share"] for entry in one]
    assert any(0 < share < 1 for share in shares), shares
    assert max(entry["loss"] for entry in one) - min(entry["loss"] for entry in one) > 1e-3
    for stage, aspo in ((2, {}), (3, {"reference_cache": str(tmp_path / "reference")})):
        two = {**config, **common, "micro_batch_size": 1, "output_dir": str(tmp_path / f"zero{stage}")}
        two |= {"deepspeed": zero(stage, tmp_path), "aspo": {"alpha": 0.5, **aspo}}
        same(forked_train(two, tmp_path / f"zero{stage}-config", 2), one, rel=2e-4)
