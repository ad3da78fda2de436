"""What a recipe's model needs beyond its host stands in the recipe's header."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import catalog, hosts
from .catalog import ROOT

HOST = hosts.installed_host()
# What no install line of a host brings (LLaMA-Factory brings torchvision).
PACKAGES = {"llamafactory": ("num2words",), "axolotl": ("num2words", "torchvision")}
# Loads the processor of each model without one package, and prints the models that miss it.
MISSED = """
import importlib.util, sys
hidden, *models = sys.argv[1:]
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name.split(".")[0] == hidden else find(name, *more)

class Hides:
    def find_spec(self, name, *more):
        if name.split(".")[0] == hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hides())
from aspo_plugin.training.model_needs import name_missing_packages
for model in models:
    try:
        name_missing_packages(model)
    except ImportError as error:
        assert hidden in str(error), error
        print("misses", model.rpartition("/")[2])
"""


@pytest.mark.skipif(HOST is None, reason="no host in this environment")
@pytest.mark.parametrize("package", PACKAGES.get(str(HOST), ()))
def test_the_header_names_what_the_model_needs(package: str, workspace: Path) -> None:
    recipes = catalog.recipes_of(str(HOST))
    models = sorted({str(workspace / "models" / recipe.tiny) for recipe in recipes})
    run = subprocess.run(
        [sys.executable, "-c", MISSED, package, *models],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    missed = {line.split()[1] for line in run.stdout.splitlines() if line.startswith("misses ")}
    assert missed
    for recipe in recipes:
        header = recipe.path.read_text().partition("\n###")[0]
        assert (package in header) == (recipe.tiny in missed), recipe.name
