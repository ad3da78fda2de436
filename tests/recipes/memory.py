"""The table of memory estimates in docs/recipes.md, from `aspo-plan`'s own functions.

.venv/axolotl/bin/python -m tests.recipes.memory           print it
.venv/axolotl/bin/python -m tests.recipes.memory --write   put it into docs/recipes.md as well
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from . import catalog
from .catalog import RECIPES, ROOT, Recipe
from .table import replace_between

PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- table of python -m tests.recipes.memory -->", "<!-- end of the table -->"
HEAD = """\
| Model | File | GPU | GiB, LoRA r 64 | GiB on each of 8: LoRA r 1024, ZeRO-3 | full, ZeRO-3 |
|---|---|---|---|---|---|"""


def planned(recipe: Path, *overrides: str, more: Path | None = None, gpus: int = 1) -> dict[str, float]:
    """Bytes of each part on each GPU."""
    from aspo_plugin.plan.memory import estimate
    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    run = read_run(recipe, list(overrides), more, gpus)
    return {part.name: part.bytes for part in estimate(run, shape_of(run))}


def gpu_of(recipe: Recipe) -> tuple[int, int]:
    """What the head of the recipe names: GB of a GPU, and how many."""
    found = re.search(r"LoRA on one (\d+) GB GPU", _head(recipe))
    return (int(found[1]), 1) if found else (80, 8)


def _head(recipe: Recipe) -> str:
    return recipe.path.read_text(encoding="utf-8").split("\n\n")[0]


def listed() -> list[Recipe]:
    """One recipe for each model; both hosts' recipes need the same, within a few tenths of a GiB."""
    alone = [recipe for recipe in catalog.recipes_of("axolotl") if recipe.model in catalog.AXOLOTL_ALONE]
    return sorted([*catalog.recipes_of("llamafactory"), *alone], key=lambda recipe: recipe.path.stem)


def table() -> str:
    """One row for each model that the transformers installed here can build."""
    lines = [HEAD]
    for recipe in [recipe for recipe in listed() if not recipe.missing]:
        size, gpus = gpu_of(recipe)
        title = _head(recipe).splitlines()[0].removeprefix("# ").split(" with ASPO")[0]
        cells = [f"{_gib(recipe, gpus=gpus)}", "", ""]
        if gpus == 1:
            suffix = {"llamafactory": "args", "axolotl": "yaml"}[recipe.host]
            for place, file in ((1, "high-rank-zero3"), (2, "full-zero3")):
                shared = RECIPES / "shared" / recipe.host / f"{file}.{suffix}"
                cells[place] = _gib(recipe, more=shared, gpus=8)
            gpu = f"{size} GB"
        else:
            title, gpu, cells = f"{title}, the paper's setting", f"{gpus} x {size} GB", ["", cells[0], ""]
        lines.append(f"| {title} | `{recipe.path.name}` | {gpu} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gib(recipe: Recipe, more: Path | None = None, gpus: int = 1) -> str:
    return f"{sum(planned(recipe.path, more=more, gpus=gpus).values()) / 2**30:.1f}"


def main(arguments: list[str]) -> int:
    made = table()
    print(made)
    if "--write" not in arguments:
        return 0
    if unknown := [recipe.missing for recipe in listed() if recipe.missing]:
        print("not written, for a row would be lost: " + "; ".join(unknown), file=sys.stderr)
        return 1
    return replace_between(PAGE, BEGIN, END, made)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
