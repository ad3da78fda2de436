"""`aspo-plan` on the recipes: they fit the GPU they name, and the page shows what is computed."""

from __future__ import annotations

import re

import pytest

from . import catalog, hosts, memory, table
from .catalog import RECIPES, Recipe, skip_without_class
from .memory import planned

pytestmark = pytest.mark.skipif(hosts.installed_host() is None, reason="aspo-plan counts with transformers")


@pytest.mark.parametrize("recipe", catalog.all_recipes(), ids=lambda recipe: recipe.name)
def test_recipes_fit_the_gpu_they_name(recipe: Recipe) -> None:
    skip_without_class(recipe.model)
    size, gpus = memory.gpu_of(recipe)
    assert sum(planned(recipe.path, gpus=gpus).values()) < 0.97 * size * 2**30


def test_the_page_shows_the_table_as_computed() -> None:
    """After a change of a recipe or of a formula: `python -m tests.recipes.memory --write`."""
    written = table.between(memory.PAGE, memory.BEGIN, memory.END).splitlines()
    unknown = [f"`{recipe.path.name}`" for recipe in memory.listed() if recipe.missing]
    assert [row for row in written if not any(file in row for file in unknown)] == memory.table().splitlines()
    one_pair = {"llamafactory": "per_device_train_batch_size=1", "axolotl": "micro_batch_size=1"}
    for recipe in catalog.recipes_of("axolotl"):
        if recipe.model in catalog.AXOLOTL_ALONE:
            continue
        gpus = memory.gpu_of(recipe)[1]
        needs = [
            sum(planned(RECIPES / host / recipe.path.name, one_pair[host], gpus=gpus).values()) / 2**30
            for host in catalog.HOSTS
        ]
        assert needs[0] == pytest.approx(needs[1], abs=4.1 if "onevision" in recipe.name else 0.3)


@pytest.mark.parametrize("recipe", catalog.all_recipes(), ids=lambda recipe: recipe.name)
def test_thirty_two_pairs_a_step(recipe: Recipe) -> None:
    """However they are split; the learning rates are for that."""
    key = {"llamafactory": "per_device_train_batch_size", "axolotl": "micro_batch_size"}[recipe.host]
    pairs = recipe.values[key] * recipe.values["gradient_accumulation_steps"]
    assert pairs == 32 if "paper" not in recipe.path.stem else pairs * 8 == 128
    for file in (RECIPES / "shared" / recipe.host).glob("*-*"):
        text = file.read_text(encoding="utf-8")
        if file.suffix in (".args", ".yaml") and "gradient_accumulation_steps" in text:
            numbers = [
                re.search(rf"{name}(?:=|: \[)(\d+)", text) for name in (key, "gradient_accumulation_steps")
            ]
            assert all(numbers) and int(numbers[0][1]) * int(numbers[1][1]) * 8 == 32, file


def test_shared_files_bring_any_model_onto_eight_gpus() -> None:
    recipe = RECIPES / "llamafactory/pixtral-12b.yaml"
    for file in sorted((RECIPES / "shared/llamafactory").glob("*-*.args")):
        shared = planned(recipe, more=file, gpus=8)
        assert sum(shared.values()) < 0.97 * 80 * 2**30, file
        assert shared["gradients"] < planned(recipe, more=file)["gradients"]
