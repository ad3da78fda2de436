"""The recipes that README and docs print, as printed: only names of models and folders are replaced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import catalog, hosts
from .catalog import ROOT, Recipe
from .test_runs import check_log

HOST = hosts.installed_host()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```yaml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def printed() -> list[tuple[str, str, str]]:
    """(page and line, host, text) of each block that names a model."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            values = yaml.safe_load(block[1])
            place = f"{page.name}:{text.count(chr(10), 0, block.start()) + 1}"
            if "model_name_or_path" in values:
                found.append((place, "llamafactory", block[1]))
            elif "base_model" in values:
                found.append((place, "axolotl", block[1]))
    return found


def replaced(values: dict[str, Any], workspace: Path, output: Path) -> dict[str, Any]:
    """Keys of the printed recipe, with what is here in place of the Hub and of the reader's folders."""
    name = values.get("model_name_or_path") or values["base_model"]
    model, dataset = str(workspace / "models" / catalog.TINY[name]), str(workspace / "dataset")
    here = {
        "model_name_or_path": model,
        "base_model": model,
        "dataset_dir": dataset,
        "output_dir": str(output / "out"),
        "dataset_prepared_path": str(output / "prepared"),
    }
    here |= {
        key: [{**entry, "path": dataset} for entry in values[key]]
        for key in ("datasets", "test_datasets")
        if key in values
    }
    return {key: value for key, value in here.items() if key in values}


def test_each_host_has_a_recipe_in_the_readme() -> None:
    assert {host for place, host, _ in printed() if place.startswith("README")} == {"llamafactory", "axolotl"}
    assert len(printed()) == 4


OF_THE_READER = {"dataset_dir", "datasets", "output_dir", "logging_steps"}


def test_the_readme_prints_what_its_recipes_say() -> None:
    for place, host, text in printed():
        values = yaml.safe_load(text)
        model = values.get("model_name_or_path") or values["base_model"]
        if place.startswith("README"):
            named = [r for r in catalog.recipes_of(host) if r.model == model]
            recipe = next(r for r in named if not r.path.stem.endswith("paper"))
            for key in values.keys() & recipe.values.keys() - OF_THE_READER:
                assert values[key] == recipe.values[key], (place, key)


@pytest.mark.skipif(HOST is None, reason="no host in this environment")
@pytest.mark.parametrize(
    "text", [pytest.param(text, id=place) for place, host, text in printed() if host == HOST]
)
def test_a_printed_recipe_trains(text: str, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    recipe = Recipe(tmp_path / "recipe.yaml", str(HOST), yaml.safe_load(text))
    short = {"max_steps": 2, "logging_steps": 1}
    if HOST == "llamafactory":
        short |= {"use_cpu": True, "cache_dir": str(tmp_path / "cache")}
    else:
        short |= {"save_steps": 2, "dataset_prepared_path": str(tmp_path / "prepared"), "dataset_num_proc": 1}
    check_log(hosts.train(recipe, {**replaced(recipe.values, workspace, tmp_path), **short}, tmp_path))
