"""docs/recipes.md shows a run of every recipe, put there by `python -m tests.recipes.table --write`."""

from __future__ import annotations

from . import catalog, table


def test_the_page_lists_every_recipe_as_trained() -> None:
    lines = table.between(table.PAGE, table.BEGIN, table.END).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    trained = {row[0].split()[0] for row in rows if row[4] == "trained"}
    assert trained == {recipe.name for recipe in catalog.all_recipes()}
    assert all(row[4] == "trained" for row in rows)
