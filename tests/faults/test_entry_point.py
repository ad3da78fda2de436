"""A damaged package never stops `import torch`, nor a stage of LLaMA-Factory that is not ours.

A site folder of its own holds what an installation leaves there: the module of the entry point, the package
(damaged), the entry points as pyproject.toml states them, and stand-ins for torch, which loads its extensions
as torch 2.5 to 2.12 do, and for LLaMA-Factory.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("reads pyproject.toml with tomllib", allow_module_level=True)
import tomllib

ROOT = Path(__file__).resolve().parents[2]
# torch/__init__.py: an extension that cannot be loaded, or that raises, ends `import torch`.
TORCH = """
from importlib.metadata import entry_points

for extension in entry_points(group="torch.backends"):
    try:
        extension.load()()
    except Exception as error:
        raise RuntimeError(f"Failed to load the backend extension: {extension.name}.") from error
"""
PROGRAM = """
import torch
import llamafactory.hparams.finetuning_args, llamafactory.data.loader, llamafactory.train.dpo
print("still running")
"""


def rewrite(change: Callable[[str], str]) -> Callable[[Path], None]:
    def damage(package: Path) -> None:
        for path in package.rglob("*.py"):
            path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "deleted": shutil.rmtree,
    "the adjustments deleted": lambda package: (package / "llamafactory" / "patches.py").unlink(),
    "the adapter deleted": lambda package: shutil.rmtree(package / "llamafactory"),
    "empty files": rewrite(lambda text: ""),
    "files cut in half": rewrite(lambda text: text[: len(text) // 2]),
    "syntax errors": rewrite(lambda text: "def broken(:\n" + text),
    "zero bytes": rewrite(lambda text: "\0" * 4096),
    "merge marks": rewrite(lambda text: "<<<<<<< HEAD\n" + text),
    "raises at import": rewrite(lambda text: "raise RuntimeError('of another version')\n"),
}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """What an installation leaves, not damaged yet."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    info = tmp_path / "aspo_plugin-0.1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: aspo-plugin\nVersion: 0.1.0\n")
    lines = [f"{k} = {v}" for k, v in project["project"]["entry-points"]["torch.backends"].items()]
    info.joinpath("entry_points.txt").write_text("\n".join(["[torch.backends]", *lines]) + "\n")
    for module in project["tool"].get("setuptools", {}).get("py-modules", []):
        shutil.copy(ROOT / f"{module}.py", tmp_path)
    shutil.copytree(ROOT / "aspo_plugin", tmp_path / "aspo_plugin", ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("torch", "llamafactory", "llamafactory/hparams", "llamafactory/data", "llamafactory/train"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TORCH if name == "torch" else "")
    for name in ("hparams/finetuning_args.py", "data/loader.py", "train/dpo.py"):
        (tmp_path / "llamafactory" / name).write_text("")
    return tmp_path


def python(site: Path, program: str = PROGRAM) -> subprocess.CompletedProcess[str]:
    # -S and the folder: no site-packages and no working tree, where a whole package could be found instead.
    return subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=site,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_torch_and_plain_stages_run_with_a_damaged_package(site: Path, damage: str) -> None:
    DAMAGES[damage](site / "aspo_plugin")
    done = python(site)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "still running\n"
    [line] = done.stderr.splitlines()  # once, however many modules are adjusted
    assert "`stage: aspo`" in line
    if damage != "files cut in half":  # half of a file may be a module that says so itself
        assert line.startswith("aspo-plugin is damaged")


def test_nobody_to_report_to(site: Path) -> None:
    shutil.rmtree(site / "aspo_plugin")
    done = python(site, "import sys; sys.stderr = None\n" + PROGRAM)
    assert (done.returncode, done.stdout) == (0, "still running\n")
