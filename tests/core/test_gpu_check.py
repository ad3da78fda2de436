"""`benchmarks.gpu_check` on tiny models without a GPU: every stage's code runs, results come at once."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu_check

ROOT = Path(__file__).resolve().parents[2]


def options(tmp_path, **changes):
    chosen = {
        "device": "cpu",
        "tiny": True,
        "minutes": 8.0,
        "only": None,
        "wheels": None,
        "out": str(tmp_path),
    }
    return argparse.Namespace(**{**chosen, **changes})


def read(tmp_path):
    return json.loads((tmp_path / "gpu_check.json").read_text())["stages"]


@pytest.mark.timeout(900)
def test_kernel_and_a_host_s_steps(tmp_path, monkeypatch):
    """The host that is installed here; the other's stage says that it is not."""
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    assert gpu_check.run_all(options(tmp_path, minutes=14.0, only=["float64", "steps: llava"])) == 0
    stages = read(tmp_path)
    assert {entry["status"] for entry in stages.values()} == {"done"}
    for result in stages["kernel against float64"]["results"]:
        for part, error in result["error"].items():
            assert 0 < error <= 1.6 * result["plain_error"][part]
    trl = int(importlib.metadata.version("trl").split(".")[0]) >= 1
    own, other = ("TRL", "LLaMA-Factory") if trl else ("LLaMA-Factory", "TRL")
    results = stages[f"steps: llava, {own}"]["results"]
    ways = [way.name for way in gpu_check_ways()]
    assert list(results[0]["seconds a pair"]) == ways and not results[0]["failed"]
    assert min(results[0]["of the host's"][name] for name in ways if name.startswith("host")) == 1
    assert [result["holds"] for result in results[1:3]] == [True, True]
    assert [result["profile"] for result in results[3:]] == ways
    assert list(stages[f"steps: llava, {other}"]["results"][0]) == ["skipped"]


def gpu_check_ways():
    from benchmarks.gpu_steps import ways

    return ways(2)


def test_a_stage_that_hangs_or_fails_loses_nothing(tmp_path, monkeypatch):
    module = tmp_path / "stages.py"
    module.write_text(
        "import sys, time\n"
        "def hangs(run):\n    run.record(first=1)\n    time.sleep(600)\n"
        "def fails(run):\n    run.record(second=2)\n    sys.exit('no such card')\n"
    )
    out = tmp_path / "out"
    stages = (gpu_check.Stage("hangs", "stages:hangs", 1), gpu_check.Stage("fails", "stages:fails", 60))
    monkeypatch.setattr(gpu_check, "STAGES", stages)
    started = gpu_check.subprocess.Popen

    def popen(command, **keywords):
        """The same process, on the stages above."""
        name = command[command.index("--stage") + 1]
        results = command[command.index("--results") + 1]
        text = (
            "import argparse, sys; from pathlib import Path; from benchmarks.gpu_check import Run; "
            f"sys.path.insert(0, {str(tmp_path)!r}); import stages; "
            f"stages.{name}(Run(argparse.Namespace(device='cpu', tiny=True), Path({results!r})))"
        )
        return started([sys.executable, "-c", text], **keywords)

    monkeypatch.setattr(gpu_check.subprocess, "Popen", popen)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    began = time.monotonic()
    assert gpu_check.run_all(options(out)) == 1
    assert time.monotonic() - began < 300
    stages_ = read(out)
    assert stages_["hangs"]["status"] == "deadline" and stages_["hangs"]["results"] == [{"first": 1}]
    assert stages_["fails"]["status"] == "failed" and stages_["fails"]["results"] == [{"second": 2}]
    assert "no such card" in stages_["fails"]["log"]


def test_an_empty_folder_of_wheels_is_a_mistake(tmp_path):
    with pytest.raises(SystemExit, match="no wheel is there"):
        gpu_check.run_all(options(tmp_path, wheels=str(tmp_path)))


def test_all_stages_fit_into_their_time():
    """Nine minutes hold the deadlines but the last ones', which a short budget may cut."""
    assert sum(stage.seconds for stage in gpu_check.STAGES[:-4]) <= 9 * 60 - gpu_check.STOP
    for stage in gpu_check.STAGES:
        module, function = stage.run.split(":")
        text = (ROOT / "benchmarks" / f"{module}.py").read_text()
        assert f"def {function}(" in text
