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
    def go(*scripts: tuple[str, str] | str) -> list[str]:
        names = []
        for script in scripts:
            if isinstance(script, str):
                names.append(script)
                continue
            name, code = script
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(code)
            names += ["-m", name[:-3].replace("/", ".")] if "/" in name else [str(tmp_path / name)]
        path = os.pathsep.join((str(tmp_path), str(ROOT)))
        environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")}
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


@pytest.mark.parametrize("command", ["deepspeed", "accelerate-launch"])
def test_other_commands_that_launch(command, run):
    assert run((command, LAUNCHER), ("train.py", REFUSES))[-1].startswith("ValueError: aspo_alpha is 2.0")


@pytest.mark.parametrize("imported_by", ["package", "module"])
@pytest.mark.parametrize("name", ["accelerate/commands/launch.py", "deepspeed/launcher/runner.py"])
def test_a_launcher_that_is_started_as_a_module(name, imported_by, run, tmp_path):
    """Torch is imported by the launcher's package while Python looks for the module, or by the module."""
    package = tmp_path / Path(name).parts[0]
    package.mkdir()
    (package / "__init__.py").write_text(BEGIN if imported_by == "package" else "")
    code = LAUNCHER if imported_by == "module" else LAUNCHER.removeprefix(BEGIN)
    lines = run((name, f"import subprocess, sys\n{code}"), ("train.py", REFUSES))
    assert lines[-1].startswith("ValueError: aspo_alpha is 2.0") and "CalledProcessError" in lines[-3]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["missing"], "error: missing does not exist."),
        (["missing", "--modell", "x"], "error: No such option: --modell"),
    ],
)
def test_the_data_tool_which_reports_its_own_errors(words, told, run):
    """Its process ends by `SystemExit`, and may never have imported torch."""
    lines = run(("torchrun", LAUNCHER), "-m", "dataset_tools", "stats", *words)
    assert lines[-1].startswith(told), lines
    assert any("CalledProcessError" in line for line in lines)


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
