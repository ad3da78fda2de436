"""The long part, `make fuzz`, tells what computes or waits without end, and where."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import fuzz

ROOT = Path(__file__).resolve().parents[2]


def test_a_command_that_waits_for_ever_is_ended_and_says_where():
    waiting = "import threading\ndef stuck(): threading.Event().wait()\nstuck()"
    code, said = fuzz.ended([sys.executable, "-X", "faulthandler", "-c", waiting], 2)
    assert code == -signal.SIGABRT and "in stuck" in said
    assert fuzz.ended([sys.executable, "-c", "print('done')"], 60) == (0, "done\n")


@pytest.mark.parametrize("body", ["while True: pass", "threading.Event().wait()"])
def test_a_case_without_end_is_a_failure_with_its_stack(body, tmp_path, monkeypatch):
    program = tmp_path / "fuzz_of_one_case.py"
    program.write_text(
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from tests.faults import fuzz\n"
        f"def endless(case):\n    {body}\n"
        "fuzz.SECONDS_OF_COMPUTING = 1\n"
        "fuzz.KINDS = {'image': (1, endless)}\n"
        "fuzz.child(int(sys.argv[4]), 1, Path(sys.argv[5]), Path(sys.argv[6]), None)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    started = subprocess.Popen
    monkeypatch.setattr(
        fuzz.subprocess,
        "Popen",
        lambda command, **settings: started([command[0], str(program), *command[1:]], **settings),
    )
    monkeypatch.setattr(fuzz, "SECONDS_PER_CASE", 10)
    number, done, failures = fuzz.run_child(7, tmp_path, tmp_path / "work", None, float("inf"))
    assert number == 8 and done == {"image": 1}
    (failure,) = failures
    assert failure["case"] == 7 and "in endless" in failure["wrong"][1]
    assert ("waited" if "wait" in body else "computed") in failure["wrong"][0]


@pytest.mark.parametrize("kind", ["rows", "file", "shard", "unfinished", "image"])
def test_one_case_of_each_kind_survives(kind, tmp_path_factory, tmp_path):
    kept = tmp_path_factory.getbasetemp() / "fuzz_seeds"
    if not kept.exists():
        fuzz.make_seeds(kept)
    case = fuzz.Case(4711, kept, tmp_path / "work", kind)
    assert case.run() == []
