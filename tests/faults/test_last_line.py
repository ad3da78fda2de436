"""The last line of a run that was refused, through launchers that say more than it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BEGIN = "import subprocess, sys, os\nimport aspo_autoload\naspo_autoload.autoload()\n"
# What stands for a launcher: it starts the next command, and ends with an error of its own.
LAUNCHER = BEGIN + "subprocess.run([sys.executable, *sys.argv[1:]], check=True)\n"
BECOMES = BEGIN + "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
REFUSES = BEGIN + "from aspo_plugin.config import settings_from\nsettings_from({'alpha': 2})\n"
# A file of another user's run, which had the same process id and was killed.
TAKEN = (
    "import os, tempfile\nleft = f'{tempfile.gettempdir()}/aspo-last-line-{os.getpid()}'\nos.mkdir(left)\n"
)
FAILS = BEGIN + "raise ValueError('not of this package')\n"


@pytest.fixture
def run(tmp_path: Path):
    def go(*scripts: tuple[str, str]) -> list[str]:
        names = []
        for name, code in scripts:
            (tmp_path / name).write_text(code)
            names.append(str(tmp_path / name))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp")}
        environment.pop("ASPO_LAST_LINE", None)
        (tmp_path / "tmp").mkdir(exist_ok=True)
        done = subprocess.run([sys.executable, *names], capture_output=True, text=True, env=environment)
        assert done.returncode == 1
        assert list((tmp_path / "tmp").iterdir()) == []
        return done.stderr.strip().splitlines()

    return go


def test_the_refusal_is_the_last_line_once_below_all_launchers(run):
    lines = run(("llamafactory-cli", LAUNCHER), ("torchrun", LAUNCHER), ("train.py", REFUSES))
    assert lines[-1].startswith("ValueError: aspo_alpha is 2.0, but it mixes")
    assert lines[-3].startswith("subprocess.CalledProcessError")
    assert sum(line == lines[-1] for line in lines) == 2, "the run's own and the outermost launcher's"


def test_a_launcher_that_becomes_another_program(run):
    lines = run(("axolotl", BECOMES), ("accelerate", LAUNCHER), ("train.py", REFUSES))
    assert lines[-1].startswith("ValueError: aspo_alpha is 2.0, but it mixes")


def test_an_error_of_another_package_stays_where_it_is(run):
    lines = run(("torchrun", LAUNCHER), ("train.py", FAILS))
    assert lines[-1].startswith("subprocess.CalledProcessError")


@pytest.mark.parametrize("name", ["train.py", "llamafactory-cli"])
def test_without_other_processes_nothing_is_printed_twice(name, run):
    lines = run((name, REFUSES))
    assert sum(line.startswith("ValueError: aspo_alpha is 2") for line in lines) == 1


def test_what_another_run_left_is_in_nobodys_way(run):
    lines = run(("torchrun", TAKEN + BEGIN + "os.rmdir(left)\n" + REFUSES))
    assert lines[-1].startswith("ValueError: aspo_alpha is 2") and not any(
        "damaged" in line for line in lines
    )
