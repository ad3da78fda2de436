"""Every recipe through its host for two steps, with only model, data and size replaced."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones
from tests.support.deepspeed_cpu import deepspeed_environment

from . import catalog, hosts
from .catalog import ROOT, Recipe

HOST = hosts.installed_host()
pytestmark = pytest.mark.skipif(HOST is None, reason="no host in this environment")
RECIPES = catalog.recipes_of(HOST) if HOST else []
SINGLE = [recipe for recipe in RECIPES if not recipe.values.get("deepspeed")]
SHARED = ROOT / "recipes" / "shared" / (HOST or "")
LLAMAFACTORY = pytest.mark.skipif(HOST != "llamafactory", reason="needs LLaMA-Factory")
AXOLOTL = pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")


def named(stem: str) -> Recipe:
    return next(recipe for recipe in RECIPES if recipe.path.stem == stem)


def check_log(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two steps were trained, with ASPO's weights, and the first loss is log 2: policy equals reference."""
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 2, log
    assert abs(steps[0]["loss"] - math.log(2)) < 1e-3, steps
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in steps), steps
    assert all(math.isfinite(entry["logps/chosen"]) for entry in steps), steps
    assert 0 < steps[0]["aspo/weight_mean"] <= 1, steps[0]
    assert 0.1 < steps[0]["aspo/similarity_mean"] < 0.4, steps[0]
    return steps


@pytest.mark.parametrize("recipe", SINGLE, ids=lambda recipe: recipe.name)
def test_recipe_trains(recipe: Recipe, workspace: Path, tmp_path: Path, row: Any) -> None:
    changes = catalog.sized_down(recipe, workspace, tmp_path)
    if not backbones.runs_here(recipe.tiny):
        with row(recipe.name, recipe.host, recipe.tiny, outcome="refused: transformers cannot run it"):
            with pytest.raises(Exception, match="cannot run a SmolVLM"):
                hosts.train(recipe, changes, tmp_path)
        return
    with row(recipe.name, recipe.host, recipe.tiny):
        check_log(hosts.train(recipe, changes, tmp_path))


# --- the paper's ablations ------------------------------------------------------------------------


def check_ablations(logs: dict[str, list[dict[str, Any]]]) -> None:
    """`similarity` and `perplexity` weigh the same sentences, each by its own signal alone."""
    first = {name: check_log(log)[0] for name, log in logs.items()}
    assert len({entry["aspo/weight_mean"] for entry in first.values()}) == len(first), first
    for alone in ("similarity", "perplexity"):
        # One signal alone is 1 in the best sentence of every answer and 0 in the worst.
        assert first[alone]["aspo/weight_spread"] > first["both"]["aspo/weight_spread"] > 0, first


@LLAMAFACTORY
def test_ablations_of_the_paper_in_llamafactory(workspace: Path, tmp_path: Path, row: Any) -> None:
    recipe, logs = named("llava-1.5-7b"), {}
    for name, alpha in (("similarity", 1), ("perplexity", 0), ("both", 0.5)):
        override = {"aspo_alpha": alpha}
        changes = catalog.sized_down(recipe, workspace, tmp_path / name) | override
        with row(f"{recipe.name} aspo_alpha={override['aspo_alpha']}", recipe.host, recipe.tiny):
            logs[name] = hosts.train(recipe, changes, tmp_path / name)
    check_ablations(logs)
    changes = catalog.sized_down(recipe, workspace, tmp_path / "dpo")
    with row(f"{recipe.name} + dpo.args", recipe.host, recipe.tiny):
        log = hosts.train(recipe, changes, tmp_path / "dpo", SHARED / "dpo.args")
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 2 and abs(steps[0]["loss"] - math.log(2)) < 1e-3
    assert not any(key.startswith("aspo/") for key in steps[0])
    # The same rows, to the same log-probs: what differs is how the sentences count.
    assert steps[0]["logps/chosen"] == pytest.approx(logs["similarity"][0]["logps/chosen"], rel=2e-2)


@AXOLOTL
def test_ablations_of_the_paper_in_axolotl(workspace: Path, tmp_path: Path, row: Any) -> None:
    recipe = named("llava-1.5-7b")
    changes = catalog.sized_down(recipe, workspace, tmp_path)
    with row(f"{recipe.name} + ablations.yaml", recipe.host, recipe.tiny):
        hosts.train(recipe, changes, tmp_path, SHARED / "ablations.yaml")
        names = ("similarity", "perplexity", "both")
        folders = [tmp_path / "out" / f"sweep000{number}" for number in (1, 2, 3)]
        check_ablations({name: hosts.history(folder) for name, folder in zip(names, folders, strict=True)})


# --- several processes ----------------------------------------------------------------------------


def on_two_processes(
    recipe: Recipe, file: str | None, workspace: Path, folder: Path, **more: Any
) -> list[dict[str, Any]]:
    """Two forked gloo ranks on a CPU: without bfloat16, and without the host's own switch for one CPU."""
    changes = catalog.sized_down(recipe, workspace, folder) | {"bf16": False} | more
    changes.pop("use_cpu", None)  # would switch DeepSpeed off in LLaMA-Factory
    return check_log(hosts.train(recipe, changes, folder, SHARED / file if file else None, processes=2))


SHARINGS = {
    "llamafactory": ["high-rank-zero3", "full-fsdp2", "high-rank-fsdp2"],
    "axolotl": ["high-rank-zero3"],
}
SUFFIX = {"llamafactory": ".args", "axolotl": ".yaml"}.get(HOST or "", "")


@pytest.mark.parametrize("name", SHARINGS.get(HOST or "", []))
def test_shared_file_on_two_processes(name: str, workspace: Path, tmp_path: Path, row: Any) -> None:
    if "zero3" in name:
        hosts.preload_deepspeed()
    recipe, file = named("llava-1.5-7b"), name + SUFFIX
    with row(f"{recipe.name} + {file}", recipe.host, recipe.tiny, "2"):
        on_two_processes(recipe, file, workspace, tmp_path)


@pytest.mark.timeout(1200)  # two runs of eight forward passes each, all parameters gathered for each
def test_full_zero3_shares_the_prefix(workspace: Path, tmp_path: Path, row: Any) -> None:
    """Image and prompt of a pair pass once through the gathered parameters: the numbers are the same."""
    hosts.preload_deepspeed()
    recipe, file, logs = named("llava-1.5-7b"), "full-zero3" + SUFFIX, []
    moving = {"learning_rate": 1e-3, "warmup_ratio": 0.0}  # so that the second step's policy has moved
    for shared in (True, False):
        switch: dict[str, Any] = {}
        if not shared and HOST == "llamafactory":
            switch = {"aspo_shared_prefix": False}
        elif not shared:
            switch = {"aspo": {**recipe.values["aspo"], "shared_prefix": False}}
        folder = tmp_path / str(shared)
        folder.mkdir()
        label = f"{recipe.name} + {file}" + ("" if shared else ", prefix not shared")
        with row(label, recipe.host, recipe.tiny, "2"):
            logs.append(on_two_processes(recipe, file, workspace, folder, **moving, **switch))
    for ours, plain in zip(*logs, strict=True):
        assert ours["aspo/shared_prefix_share"] == 1 and plain["aspo/shared_prefix_share"] == 0
        for key in ("loss", "grad_norm", "logps/chosen", "logps/rejected", "aspo/weight_mean"):
            assert ours[key] == pytest.approx(plain[key], rel=1e-4), key
    assert abs(logs[0][1]["loss"] - math.log(2)) > 1e-4


def test_the_papers_recipe_by_its_command(workspace: Path, tmp_path: Path, row: Any) -> None:
    """What a user types: the host's command, its launcher, and torchrun with two processes."""
    recipe = named("llava-1.5-7b-paper")
    changes = catalog.sized_down(recipe, workspace, tmp_path) | {"bf16": False}
    changes.pop("use_cpu", None)
    command = hosts.command(recipe, changes, tmp_path, launcher="torchrun")
    if HOST == "axolotl":
        command += ["--", "--nproc_per_node", "2"]
    environment = catalog.environment() | deepspeed_environment()
    environment |= {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    log = tmp_path / "log.txt"
    with row(recipe.name, recipe.host, recipe.tiny, "2"), open(log, "w") as stream:
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, timeout=560)
        assert done.returncode == 0, log.read_text(errors="replace")[-4000:]
        check_log(hosts.history(tmp_path / "out"))
