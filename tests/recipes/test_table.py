"""docs/recipes.md shows a run of every recipe, put there by `python -m tests.recipes.table --write`."""

from __future__ import annotations

from . import catalog, table


def test_the_page_lists_every_recipe_as_trained() -> None:
    lines = table.between(table.PAGE, table.BEGIN, table.END).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    trained = {row[0].split()[0] for row in rows if row[4] == "trained"}
    refused = {row[0]: row[4] for row in rows if row[4] != "trained"}
    # Transformers 5.20.1, which Axolotl 0.21 pins, cannot run this model: one line says so.
    assert refused == {"axolotl/smolvlm2-2.2b.yaml": "refused: transformers cannot run it"}
    assert trained | refused.keys() == {recipe.name for recipe in catalog.all_recipes()}
