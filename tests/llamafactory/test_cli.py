"""The unmodified `llamafactory-cli` in processes of its own: YAML, flags, torchrun, Ray, plain stages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import data, samples

from .conftest import LOGGED_DIGITS, cli, history, write_sets

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]


def steps(output_dir: Path) -> list[dict[str, Any]]:
    return [entry for entry in history(output_dir) if "loss" in entry]


def write_recipe(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_one_process_equals_two(recipe: dict[str, Any], tmp_path: Path) -> None:
    """YAML with `key=value` overrides; 1 process of batch 4 and 2 of batch 2 log the same numbers.

    Each lists the one row that cannot be trained on, once, also where two processes read a stream, begins
    with one line of its settings and its data, and keeps samples of one process.
    """
    rows = data.rows(24, 32, sentences=(3, 5))
    rows[5]["chosen"][0]["content"] = " "
    sets = str(write_sets(tmp_path / "sets", {"spoiled": rows}))
    record = {"scorer": {"model": "some/clip"}}
    (tmp_path / "sets" / "spoiled" / "aspo.json").write_text(json.dumps(record))
    changed = {"max_steps": 4, "dataset_dir": sets, "dataset": "spoiled", "aspo_log_samples": 2}
    path = write_recipe(tmp_path, {**recipe, **changed})
    one = cli("train", path, "aspo_alpha=0.3", f"output_dir={tmp_path / 'one'}")
    assert one.returncode == 0, one.stderr[-3000:]
    two = cli(
        "train",
        path,
        "aspo_alpha=0.3",
        "per_device_train_batch_size=2",
        f"output_dir={tmp_path / 'two'}",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
    )
    assert two.returncode == 0, two.stderr[-3000:]
    streamed = cli(
        "train",
        path,
        "streaming=true",
        "dataloader_num_workers=1",
        "per_device_train_batch_size=2",
        f"output_dir={tmp_path / 'streamed'}",
        FORCE_TORCHRUN="1",
        NPROC_PER_NODE="2",
    )
    assert streamed.returncode == 0, streamed.stderr[-3000:]
    assert len(steps(tmp_path / "streamed")) == 4
    saved = json.loads((tmp_path / "streamed" / "aspo_args.json").read_text())
    assert saved["data"] == {"training": {"empty": 1}}
    saved = json.loads((tmp_path / "two" / "aspo_args.json").read_text())
    assert saved["finetuning_args"]["aspo_alpha"] == 0.3
    assert saved["data"] == {"training": {"rows": 24, "empty": 1}}
    for name in ("one", "two", "streamed"):
        [line] = (tmp_path / name / "aspo_rejected.jsonl").read_text().splitlines()
        assert json.loads(line)["row"] == 5
        kept = samples.pairs(samples.read(tmp_path / name))
        assert list(kept) == [(step, pair) for step in (1, 2, 3, 4) for pair in (0, 1)]
    sentences = sum(len(row["chosen_sentences"]) for row in rows if row is not rows[5])
    for name, run in (("one", one), ("two", two)):
        assert [line for line in run.stderr.splitlines() if "ASPO: alpha" in line] == [
            "ASPO: alpha 0.3, normalization weight; similarities by some/clip; 23 pairs with "
            f"{sentences} sentences, 0% of one sentence only; 1 rows refused, listed in "
            f"{tmp_path / name / 'aspo_rejected.jsonl'}."
        ]
    assert streamed.stderr.count("ASPO: alpha") == 1 and "a streamed set" in streamed.stderr
    first, second = steps(tmp_path / "one"), steps(tmp_path / "two")
    assert len(first) == len(second) == 4
    for alone, together in zip(first, second, strict=True):
        assert alone.keys() == together.keys()
        for key in alone:
            assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=2e-5 + 2 * LOGGED_DIGITS), key


def test_a_refusal_is_the_last_line_under_torchrun(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Below torchrun's table of failures and the host's CalledProcessError."""
    path = write_recipe(tmp_path, {**recipe, "aspo_alpha": 2})
    done = cli("train", path, FORCE_TORCHRUN="1", NPROC_PER_NODE="2")
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and any(line.startswith("subprocess.CalledProcessError") for line in lines)
    assert lines[-1].startswith("ValueError: aspo_alpha is 2.0, but it mixes similarity")


def test_flags_and_help(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe = {**recipe, "max_steps": 1, "aspo_normalization": "none", "aspo_shared_prefix": "false"}
    flags = [part for key, value in recipe.items() for part in (f"--{key}", value)]
    run = cli("train", *flags)
    assert run.returncode == 0, run.stderr[-3000:]
    assert steps(tmp_path / "out")[0]["aspo/factor_mean"] == 1.0
    shown = cli("train", "-h")
    assert shown.returncode == 0
    text = " ".join(shown.stdout.split())
    assert "{pt,sft,rm,ppo,dpo,kto,aspo}" in text
    for name in ("alpha", "normalization", "similarity_model", "shared_prefix", "reference_cache"):
        assert f"--aspo_{name}" in text
    wrong = cli("train", *flags, "--aspo_normalization", "sum")
    assert wrong.returncode != 0 and "invalid choice: 'sum'" in wrong.stderr


def test_switched_off_by_environment(recipe: dict[str, Any], tmp_path: Path) -> None:
    """As without the package: the host says that it does not know the keys, and trains nothing."""
    path = write_recipe(tmp_path, {**recipe, "aspo_alpha": 0.5})
    run = cli("train", path, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert run.returncode != 0 and not (tmp_path / "out").exists()
    assert "keys are not used by the HfArgumentParser: ['aspo_alpha']" in run.stderr


def test_plain_stages_are_unchanged(recipe: dict[str, Any], tmp_path: Path) -> None:
    """DPO and SFT log the same numbers, to the last digit, with this package and without it."""
    rows = data.rows(12, 30)
    data.write_llamafactory(tmp_path / "sets", rows)
    info_path = tmp_path / "sets" / "dataset_info.json"
    info = json.loads(info_path.read_text())
    content = json.loads((tmp_path / "sets" / "drawn.json").read_text())
    for row in content:
        row["conversations"].append(row["chosen"])
    (tmp_path / "sets" / "plain.json").write_text(json.dumps(content))
    columns = {"messages": "conversations", "images": "images"}
    info["plain"] = {"file_name": "plain.json", "formatting": "sharegpt", "columns": columns}
    info_path.write_text(json.dumps(info))
    program = """
import json, sys
from llamafactory.train.tuner import run_exp
for recipe in json.loads(sys.argv[1]):
    run_exp(recipe)
print("ASPO-LOADED", "aspo_plugin.llamafactory.patches" in sys.modules)
"""
    logs = {}
    for switch in ("1", "0"):
        recipes = [
            {
                **recipe,
                "stage": stage,
                "dataset_dir": str(tmp_path / "sets"),
                "dataset": name,
                "cache_dir": str(tmp_path / f"cache-{switch}"),
                "output_dir": str(tmp_path / f"{stage}-{switch}"),
            }
            for stage, name in (("dpo", "drawn"), ("sft", "plain"))
        ]
        run = subprocess.run(
            [sys.executable, "-c", program, json.dumps(recipes)],
            capture_output=True,
            text=True,
            timeout=420,
            env={**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": switch},
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert f"ASPO-LOADED {switch == '1'}" in run.stdout
        logs[switch] = [steps(tmp_path / f"{stage}-{switch}") for stage in ("dpo", "sft")]
    assert logs["1"] == logs["0"]


RAY_PROGRAM = """
import json, sys
import ray
from ray.util.placement_group import placement_group
from llamafactory.train import trainer_utils, tuner

WORKERS = 2
for attempt in range(6):
    try:  # Ray gives its own processes 30 seconds to start, which a busy machine may not do
        ray.init(num_cpus=WORKERS + 1, include_dashboard=False)
        break
    except Exception as error:
        print(f"Ray did not start: {error}")
        ray.shutdown()
if hasattr(tuner, "_ray_training_function"):
    # The host asks for ten processors a worker, as many workers as processors, and Ray's dashboard.
    original = tuner.get_ray_remote_config_for_worker
    tuner.get_ray_remote_config_for_worker = lambda **kwargs: {**original(**kwargs), "num_cpus": 1}
    tuner.get_placement_group = lambda count: (placement_group([{"CPU": 1}] * WORKERS), {"CPU": 1})
    tuner.get_ray_head_node_ip = ray.util.get_node_ip_address
else:  # 0.9.4 leaves the workers to Ray Train, and wants a GPU for each
    scaling = trainer_utils.ScalingConfig
    trainer_utils.ScalingConfig = lambda **kwargs: scaling(num_workers=WORKERS, use_gpu=False)
tuner.run_exp(json.loads(sys.argv[1]))
"""


def test_ray(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The host's Ray path, two workers: interpreters of Ray's, which find `stage: aspo` by themselves."""
    ray_recipe = {**recipe, "per_device_train_batch_size": 2, "ray_num_workers": 2}
    if version("llamafactory") == "0.9.4":  # later versions have no such key
        ray_recipe["ray_storage_path"] = str(tmp_path / "ray")
    run = subprocess.run(
        [sys.executable, "-c", RAY_PROGRAM, json.dumps(ray_recipe)],
        capture_output=True,
        text=True,
        timeout=700,
        # "local": no cluster that another program left the address of, alive or not. Ray's niceness of 15
        # would starve the workers beside other suites.
        env={**os.environ, "USE_RAY": "1", "RAY_ADDRESS": "local", "RAY_worker_niceness": "0"},
    )
    assert run.returncode == 0, run.stdout[-1500:] + run.stderr[-3000:]
    [first, _] = steps(tmp_path / "out")
    assert "aspo/weight_mean" in first
    assert first["epoch"] == 0.1  # two workers took 4 of 40 rows
