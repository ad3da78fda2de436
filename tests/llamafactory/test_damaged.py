"""The real torch and host with a damaged package before ours: plain stages parse, `stage: aspo` stops."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.test_entry_point import DAMAGES, site

__all__ = ["site"]
pytestmark = [pytest.mark.host]
PROGRAM = """
import sys, torch
from llamafactory.hparams import get_train_args
common = dict(do_train=True, model_name_or_path="x", dataset="d", template="llava", output_dir=sys.argv[1],
              report_to="none")
get_train_args(dict(common, stage="dpo"))
print("dpo parsed")
from llamafactory.train.tuner import run_exp
run_exp(dict(common, stage="aspo", **eval(sys.argv[2])))
print("aspo ran")
"""


@pytest.mark.parametrize(
    ("damage", "settings", "stops"),
    [
        ("deleted", {}, "Unknown task: aspo"),
        ("syntax errors", {"aspo_alpha": 0.5}, "aspo_alpha"),
    ],
)
def test_a_damaged_package_in_the_real_host(
    site: Path, tmp_path: Path, damage: str, settings: dict[str, float], stops: str
) -> None:
    for stand_in in ("torch", "llamafactory"):
        shutil.rmtree(site / stand_in)
    package = site / "aspo_plugin"
    DAMAGES[damage](package)
    package.mkdir(exist_ok=True)
    # Deleted is deleted: without this a namespace of that name lets the one of the environment through.
    if not (package / "__init__.py").exists():
        (package / "__init__.py").write_text("raise ModuleNotFoundError('No module named aspo_plugin')")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "out"), repr(settings)],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "dpo parsed" in done.stdout, done.stderr[-3000:]
    assert "aspo ran" not in done.stdout and done.returncode != 0
    assert "aspo-plugin is damaged, so `stage: aspo` cannot run" in done.stderr
    assert stops in done.stderr.splitlines()[-1]
