"""The table of recipes that were trained here, kept between the two hosts' runs.

python -m tests.recipes.table           print it (`make test-recipes` does, after both runs)
python -m tests.recipes.table --write   put it into docs/recipes.md as well
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".artifacts" / "recipes"
PAGE = ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- table of make test-recipes -->", "<!-- end of the table -->"


class Row(NamedTuple):
    recipe: str
    host: str
    architecture: str
    processes: str
    status: str
    seconds: int


def save(host: str, rows: Sequence[Row]) -> None:
    """Keep the rows of one run of a host; those of an earlier run go, for they may be of other recipes."""
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{host}.json").write_text(json.dumps(list(rows), indent=1) + "\n")


def load(host: str) -> list[Row]:
    path = KEPT / f"{host}.json"
    return [Row(*values) for values in json.loads(path.read_text())] if path.is_file() else []


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(Row._fields) + " |", "|---" * len(Row._fields) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def main(arguments: list[str]) -> int:
    rows = [row for host in ("llamafactory", "axolotl") for row in load(host)]
    if not rows:
        print("no recipe was run yet: make test-recipes", file=sys.stderr)
        return 1
    print(markdown(rows))
    return replace_between(PAGE, BEGIN, END, markdown(rows)) if "--write" in arguments else 0


def between(page: Path, begin: str, end: str) -> str:
    """The text between two marks of a page; `ValueError` where they are not there."""
    found = re.search(f"{re.escape(begin)}\n(.*?)\n{re.escape(end)}", page.read_text("utf-8"), re.DOTALL)
    if not found:
        raise ValueError(f"{page.name} has no {begin} ... {end}")
    return found[1]


def replace_between(page: Path, begin: str, end: str, text: str) -> int:
    """Put `text` between the two marks; the exit code."""
    old = f"{begin}\n{between(page, begin, end)}\n{end}"
    new = page.read_text("utf-8").replace(old, f"{begin}\n{text}\n{end}")
    page.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
