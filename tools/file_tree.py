"""The file tree of both packages with a line each, from the first line of every module's docstring.

    python tools/file_tree.py            print it
    python tools/file_tree.py --write    put it into docs/architecture.md
    python tools/file_tree.py --check    fail where docs/architecture.md holds another one (`make check`)

Standard library only: it runs outside every environment.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- file tree -->", "<!-- end of the file tree -->"
PACKAGES = ("aspo_plugin", "dataset_tools")


def first_line(path: Path) -> str:
    """The first line of a module's docstring, for people who look for a place."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    line = text.partition("\n")[0].strip()
    return line.replace("|", "\\|")


def rows(folder: Path) -> list[tuple[str, str]]:
    """(path, line) of a package, its modules, then its subpackages."""
    found = [(f"**{folder.relative_to(ROOT).as_posix()}/**", first_line(folder / "__init__.py"))]
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            found.append((path.name, first_line(path)))
    for path in sorted(folder.glob("*/__init__.py")):
        found += rows(path.parent)
    return found


def tree() -> str:
    """The whole tree as one Markdown table a package."""
    parts = []
    for package in PACKAGES:
        lines = [
            f"| `{name}` | {line} |" if name[0] != "*" else f"| {name} | {line} |"
            for name, line in rows(ROOT / package)
        ]
        parts.append("\n".join([f"### `{package}`", "", "| Where | What |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    if not arguments:
        print(tree())
        return 0
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n\n{tree()}\n\n{END}{after}"
    if arguments == ["--write"]:
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    if arguments == ["--check"]:
        if wanted != page:
            print(
                "docs/architecture.md holds another file tree: `python tools/file_tree.py --write`",
                file=sys.stderr,
            )
            return 1
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
