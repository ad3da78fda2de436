"""What `make mutate` found: changes of single lines that no test of its selection noticed.

    python tools/mutants.py [--write]

Reads what mutmut left in mutants/ and prints, or writes to docs/mutation.md, a table by file and the change
of each survivor. Standard library only.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections import Counter
from datetime import date
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutation.md"
HEAD = """# Changes that no test notices

`make mutate` (mutmut) changes one line at a time of the paper's functions, the alignment of tokens, the
log-probs and the reference cache, and runs their tests in tests/core. What a change leaves green is
listed here as it was found, for a reader to judge: most survivors compute the same, or differ in a message
or on inputs that cannot occur; one that matters gets a test. Run by hand, seconds a change; `tool.mutmut`
in pyproject.toml names the files and the tests.
"""
OUTCOMES = {0: "survived", 1: "caught", 3: "caught", 5: "untested", 33: "untested"}


def survivors(source: Path, meta: dict[str, int | None]) -> list[tuple[str, str]]:
    """(function, change) of each mutant that no test noticed."""
    text = source.read_text(encoding="utf-8")
    found = []
    for key, code in meta.items():
        if code != 0:
            continue
        name = key.rsplit(".", 1)[1]
        original = re.sub(r"__mutmut_\d+$", "__mutmut_orig", name)
        before, after = _body(text, original), _body(text, name)
        lines = difflib.unified_diff(before, after, lineterm="", n=0)
        change = [line.strip() for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        change = [f"{line[0]} {line[1:].strip()}" for line in change]
        function = re.sub(r"^x_|__mutmut_\d+$", "", name).replace("\u01c1", ".").strip(".")
        found.append((function, "\n".join(change)))
    return found


def _body(text: str, name: str) -> list[str]:
    """The lines of a function below its first one: all that are indented more than that."""
    start = re.search(rf"^( *)def {re.escape(name)}\(", text, re.M)
    if start is None:
        return []
    lines = text[start.end() :].splitlines()[1:]
    inside = takewhile(
        lambda line: not line.strip() or line.startswith(start[1] + " ") or line[:1] == ")", lines
    )
    return [line for line in inside if line.strip()]


def page() -> str:
    rows, listed = [], []
    for path in sorted((ROOT / "mutants").rglob("*.py.meta")):
        meta = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        if not meta:
            continue
        source = path.with_suffix("")
        name = source.relative_to(ROOT / "mutants").as_posix()
        counts = Counter(
            "not run" if code is None else OUTCOMES.get(code, "caught") for code in meta.values()
        )
        rows.append(
            (name, len(meta), *(counts[kind] for kind in ("caught", "survived", "untested", "not run")))
        )
        alive = survivors(source, meta)
        telling = [(function, change) for function, change in alive if not _of_a_text(change)]
        if telling:
            listed.append(f"\n## `{name}`\n")
            if len(alive) > len(telling):
                listed.append(f"Besides, {len(alive) - len(telling)} that change the words of a text.\n")
            blocks = [f"@@ {function}\n{change}" for function, change in telling]
            listed.append("```diff\n" + "\n".join(blocks) + "\n```\n")
    table = "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
    header = "| file | changes | caught | survived | no test runs it | not run |\n|---|---|---|---|---|---|"
    told = f"Last run: {date.today()}. Tests that came since are not in it.\n"
    return f"{HEAD}\n{told}\n{header}\n{table}\n" + "\n".join(listed)


def _of_a_text(change: str) -> bool:
    """Whether a change is of the words of a message alone: in `XX`, or of their case."""
    before, after = ("".join(line[2:] for line in change.splitlines() if line[:1] == sign) for sign in "-+")
    return bool(before) and (after.replace("XX", "") == before or after.lower() == before.lower())


def main() -> None:
    if "--write" in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page())


if __name__ == "__main__":
    main()
