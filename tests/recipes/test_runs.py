"""Every recipe through its host for two steps, with only model, data and size replaced."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import catalog, hosts
from .catalog import ROOT, Recipe

HOST = hosts.installed_host()
pytestmark = pytest.mark.skipif(HOST is None, reason="no host in this environment")
RECIPES = catalog.recipes_of(HOST) if HOST else []
SINGLE = [recipe for recipe in RECIPES if not recipe.values.get("deepspeed")]
LLAMAFACTORY = pytest.mark.skipif(HOST != "llamafactory", reason="needs LLaMA-Factory")
AXOLOTL = pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")


def check_log(log: list[dict[str, Any]]) -> None:
    """Two steps were trained, with ASPO's weights, and the first loss is log 2: policy equals reference."""
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 2, log
    assert abs(steps[0]["loss"] - math.log(2)) < 1e-3, steps
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in steps), steps
    weights = [value for key, value in steps[0].items() if key.endswith("aspo/weight_max")]
    assert weights and 0 < weights[0] <= 1, sorted(steps[0])
    assert any(key.endswith("aspo/similarity_mean") for key in steps[0]), sorted(steps[0])


@pytest.mark.parametrize("recipe", SINGLE, ids=lambda recipe: recipe.name)
def test_recipe_trains(recipe: Recipe, workspace: Path, tmp_path: Path, row: Any) -> None:
    model = catalog.built(recipe.tiny, workspace / "models")
    changes = catalog.sized_down(recipe, model, workspace / "dataset", tmp_path)
    with row(recipe.name, recipe.host, recipe.tiny):
        check_log(hosts.train(recipe, changes, tmp_path))


def torchrun(command: list[str], log: Path, **environment: str) -> None:
    """Two gloo processes; `AssertionError` with the end of their output if they fail."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # DeepSpeed on a CPU: no compiled operators.
    more = {"PATH": path, "DS_BUILD_OPS": "0", "DS_ACCELERATOR": "cpu", **environment}
    with open(log, "w") as stream:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**catalog.environment(), **more},
            stdout=stream,
            stderr=stream,
            timeout=560,
        )
    assert done.returncode == 0, log.read_text(errors="replace")[-4000:]


def arguments_of(file: str) -> dict[str, str]:
    """The overrides in a `.args` file of recipes/shared."""
    words = (ROOT / "recipes/shared/llamafactory" / file).read_text().split()
    return dict(word.split("=", 1) for word in words)


# On a CPU: no bfloat16 (which needs use_cpu, which would switch DeepSpeed off), small adapters.
ON_CPU = {"bf16": "false", "use_cpu": None}


def two_processes(name: str, file: str | None, workspace: Path, folder: Path, **more: Any) -> None:
    """A LLaMA-Factory recipe with a shared file behind it, as a user types it, on two processes."""
    recipe = next(recipe for recipe in catalog.recipes_of("llamafactory") if recipe.path.stem == name)
    changes = catalog.sized_down(
        recipe, catalog.built(recipe.tiny, workspace / "models"), workspace / "dataset", folder
    )
    changes.update(ON_CPU)
    words = list(arguments_of(file).items()) if file else []
    # Sizes come last, so that they win over the shared file's.
    given = {
        **dict(words),
        **{key: str(value) for key, value in changes.items() if value is not None},
        **more,
    }
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "train", str(recipe.path)]
    command += [f"{key}={value}" for key, value in given.items()]
    torchrun(command, folder / "log.txt", FORCE_TORCHRUN="1", NPROC_PER_NODE="2")
    check_log(hosts.history(folder / "out"))


@LLAMAFACTORY
def test_paper_recipe_on_two_processes(workspace: Path, tmp_path: Path, row: Any) -> None:
    with row("llamafactory/llava-1.5-7b-paper.yaml", "llamafactory", "llava", "2 (ZeRO-3)"):
        two_processes("llava-1.5-7b-paper", None, workspace, tmp_path)


@LLAMAFACTORY
@pytest.mark.parametrize("file", ["full-zero3.args", "full-fsdp2.args", "high-rank-fsdp2.args"])
def test_shared_file_on_two_processes(file: str, workspace: Path, tmp_path: Path, row: Any) -> None:
    with row(f"llava-1.5-7b.yaml + {file}", "llamafactory", "llava", "2"):
        two_processes("llava-1.5-7b", file, workspace, tmp_path)


@AXOLOTL
@pytest.mark.parametrize("file", ["full-zero3.yaml", "high-rank-zero3.yaml"])
def test_sweep_file_on_two_processes(file: str, workspace: Path, tmp_path: Path, row: Any) -> None:
    recipe = next(recipe for recipe in catalog.recipes_of("axolotl") if recipe.path.stem == "llava-1.5-7b")
    model = catalog.built(recipe.tiny, workspace / "models")
    changes = catalog.sized_down(recipe, model, workspace / "dataset", tmp_path)
    sweep = yaml.safe_load((ROOT / "recipes/shared/axolotl" / file).read_text())
    values = {**recipe.values, **{key: value[0] for key, value in sweep.items()}}
    for key in ("lora_r", "lora_alpha"):
        if values.get(key) is None:
            changes.pop(key, None)
    values = {**values, **changes, "bf16": False}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    command = [str(Path(sys.executable).parent / "axolotl"), "train", str(config), "--launcher", "torchrun"]
    with row(f"llava-1.5-7b.yaml + {file}", "axolotl", "llava", "2"):
        torchrun([*command, "--", "--nproc_per_node=2"], tmp_path / "log.txt")
        check_log(hosts.history(tmp_path / "out"))
