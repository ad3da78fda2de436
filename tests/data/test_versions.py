"""The table of tested versions is that of the constraint files, on every page that prints it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import aspo_plugin.trl
from aspo_plugin.trl import contract
from tools import tested_versions


def test_the_pages_hold_the_table_of_the_constraint_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert tested_versions.main(["--check"]) == 0, capsys.readouterr().out


def test_another_constraint_is_noticed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "constraints").mkdir()
    for path in (tested_versions.ROOT / "constraints").glob("*.txt"):
        (tmp_path / "constraints" / path.name).write_text(path.read_text())
    page = tmp_path / "README.md"
    page.write_text(f"before\n{tested_versions.BEGIN}\n{tested_versions.END}\nafter\n")
    monkeypatch.setattr(tested_versions, "ROOT", tmp_path)
    monkeypatch.setattr(tested_versions, "PAGES", (page,))
    assert tested_versions.main(["--write"]) == 0 == tested_versions.main(["--check"])
    assert page.read_text().startswith("before\n") and page.read_text().endswith("\nafter\n")
    file = tmp_path / "constraints" / "axolotl.txt"
    file.write_text("".join("axolotl==9.9.9\n" if x.startswith("axolotl==") else x for x in file.open()))
    assert tested_versions.main(["--check"]) == 1 and "README.md" in capsys.readouterr().out
    tested_versions.main(["--write"])
    assert "| Axolotl | 9.9.9 |" in page.read_text()


def test_an_environment_without_its_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constraints").mkdir()
    (tmp_path / "constraints" / "axolotl.txt").write_text("axolotl==1.0\n")
    monkeypatch.setattr(tested_versions, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="names no Python: make constraints"):
        tested_versions.versions("axolotl")


def test_an_interpreter_that_runs_is_found(tmp_path: Path) -> None:
    """Not a shim of pyenv for a version that is switched off, which is on PATH all the same."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"

    def find(path: Path, root: Path, uv: str) -> subprocess.CompletedProcess[str]:
        script = str(tested_versions.ROOT / "tools" / "find_python.sh")
        environment = {"PATH": str(path), "PYENV_ROOT": str(root), "HOME": str(tmp_path)}
        return subprocess.run(
            ["/bin/sh", script, version, uv], env=environment, capture_output=True, text=True, timeout=60
        )

    def script(path: Path, body: str) -> Path:
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return path

    real = str(Path(sys.executable).resolve())
    shim = script(tmp_path / "shims" / f"python{version}", "exit 127")
    kept = script(
        tmp_path / "pyenv" / "versions" / f"{version}.9" / "bin" / f"python{version}", f'exec {real} "$@"'
    )
    uv = script(tmp_path / "uv" / "uv", f'[ "$2" = find ] && echo {real}')
    nothing = tmp_path / "nothing"
    assert find(shim.parent, tmp_path / "pyenv", "false").stdout.strip() == str(kept)
    assert find(kept.parent, nothing, "false").stdout.strip() == str(kept)
    assert find(shim.parent, nothing, str(uv)).stdout.strip() == real
    failed = find(shim.parent, nothing, "false")
    assert failed.returncode == 1 and failed.stderr.startswith(
        f"There is no Python {version} on PATH or in pyenv"
    )
    assert len(failed.stderr.splitlines()) == 1


def test_the_versions_of_trl_are_those_of_the_constraint_files_and_of_the_package():
    tested = [row[1] for row in tested_versions.rows() if row[0] == "TRL"]
    assert sorted(tested) == sorted(contract.TESTED)
    assert f'"trl>={contract.OLDEST}"' in (tested_versions.ROOT / "pyproject.toml").read_text()
    assert not any(map(contract.is_too_old, contract.TESTED)) and contract.is_too_old("0.24.0")


def test_the_trainer_says_which_version_of_trl_it_needs(monkeypatch, caplog):
    monkeypatch.setattr(contract, "version", lambda name: "0.24.0")
    with pytest.raises(ImportError, match=r"needs TRL 1\.9\.0 or newer, and this is 0\.24\.0"):
        aspo_plugin.trl.__getattr__("AspoTrainer")
    monkeypatch.setattr(contract, "version", lambda name: "1.99.0")
    contract.check_version()
    assert [record.getMessage() for record in caplog.records] == [
        "aspo_plugin.trl was tested with TRL 1.9.0, 1.14.1, 1.16.0, this is 1.99.0"
    ]


def test_make_takes_no_python_that_is_too_old(tmp_path: Path) -> None:
    """As macOS' python3 is: the tools would fail to install, in words about a package."""
    (tmp_path / "constraints").mkdir()
    (tmp_path / "constraints" / "tools.txt").touch()
    (tmp_path / "bin").mkdir()
    make = [str(shutil.which("make")), "-f", str(tested_versions.ROOT / "Makefile"), ".venv/tools/.installed"]

    def tried(name: str, answer: int, *given: str) -> subprocess.CompletedProcess[str]:
        """Of a Python that says so of `version_info < (3, 11)`, and makes no environment."""
        python = tmp_path / "bin" / name
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit {answer}\necho {name} "$@" >&2; exit 3\n')
        python.chmod(0o755)
        environment = {"PATH": str(tmp_path / "bin")}
        return subprocess.run(
            [*make, *given], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )

    assert "There is no Python of 3.11 or later on PATH" in tried("python3", 1).stderr
    assert "python3.12 -m venv .venv/tools" in tried("python3.12", 0).stderr
    named = tmp_path / "my python"
    named.write_text('#!/bin/sh\necho named "$@" >&2; exit 3\n')
    named.chmod(0o755)
    assert "named -m venv .venv/tools" in tried("python3", 1, f"PYTHON={named}").stderr
