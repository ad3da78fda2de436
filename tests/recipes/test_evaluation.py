"""`recipes/evaluation/tables.py` on result files in lmms-eval's format."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .catalog import ROOT

SCRIPT = ROOT / "recipes" / "evaluation" / "tables.py"
spec = importlib.util.spec_from_file_location("tables", SCRIPT)
assert spec and spec.loader
tables = importlib.util.module_from_spec(spec)
sys.modules["tables"] = tables
spec.loader.exec_module(tables)

POPE = {
    "alias": "pope",
    "pope_accuracy,none": 0.871,
    "pope_accuracy_stderr,none": "N/A",
    "pope_f1_score,none": 0.8662,
    "pope_f1_score_stderr,none": 0.003,
    "pope_yes_ratio,none": 0.4633,
}
CHAIR = {"alias": "coco_cap_chair", "coco_cap_chair_i,none": 12.34, "coco_cap_chair_s,none": 45.0}


def write(path: Path, results: dict[str, Any]) -> Path:
    """A file with the keys that lmms-eval writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "results": results,
        "group_subtasks": {task: [] for task in results},
        "configs": {task: {"task": task, "output_type": "generate_until"} for task in results},
        "versions": {task: "Yaml" for task in results},
        "n-shot": {task: 0 for task in results},
        "n-samples": {task: {"original": 9000, "effective": 9000} for task in results},
        "config": {"model": "llava_hf", "model_args": "pretrained=merged/aspo", "batch_size": "1"},
        "date": "20250801_120000",
        "model_name": "merged/aspo",
    }
    path.write_text(json.dumps(document))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def cells(output: str, name: str) -> list[list[str]]:
    """The cells of each table row called `name`."""
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("|")]
    return [row[1:] for row in rows if row[0] == name]


def test_tables_hold_the_measured_values_beside_the_papers(tmp_path: Path) -> None:
    aspo = write(tmp_path / "aspo" / "merged__aspo" / "20250801_120000_results.json", {"pope": POPE})
    base = write(tmp_path / "base_results.json", {"pope": {**POPE, "pope_f1_score,none": 0.859}})
    write(aspo.with_name("20250802_090000_results.json"), {"coco_cap_chair": CHAIR})
    done = run(f"base={base}", f"aspo={tmp_path / 'aspo'}")
    assert done.returncode == 0, done.stderr
    first, second = cells(done.stdout, "aspo")
    assert first == ["-", "-", "-", "-", "86.6"]
    assert second == ["87.1", "46.3", "-", "-", "-", "-", "12.3", "45.0"]
    assert cells(done.stdout, "base")[0][-1] == "85.9"
    assert cells(done.stdout, "paper: ASPO") == [["35.3", "65.6", "75.7", "67.7", "86.6"]]
    assert "arXiv 2505.19100" in done.stdout


def test_the_newest_result_of_a_task_counts(tmp_path: Path) -> None:
    write(tmp_path / "20250801_120000_results.json", {"pope": POPE})
    write(tmp_path / "20250802_120000_results.json", {"pope": {**POPE, "pope_f1_score,none": 0.5}})
    assert tables.read_results(tmp_path)["pope"]["pope_f1_score"] == 0.5


@pytest.mark.parametrize("content", ["{}", "not json", '{"results": {"mme": {"mme,none": 1}}}'])
def test_files_without_results_are_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x_results.json"
    path.write_text(content)
    done = run(f"aspo={path}")
    assert done.returncode == 1 and "tables.py" in done.stderr and not done.stdout


def test_usage_errors(tmp_path: Path) -> None:
    assert run("results.json").returncode == 2
    assert run(f"aspo={tmp_path}").returncode == 1
