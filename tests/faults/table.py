"""The table of what was tried and what survived, kept between runs and put into docs/reliability.md.

    python -m tests.faults.table           print it
    python -m tests.faults.table --write   put it into the page as well

The quick part is counted by every whole run of tests/faults (its conftest keeps the counts), training's by
the `test_broken_rows.py` of each host, the long part by `make fuzz`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.recipes.table import replace_between

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".artifacts" / "faults"
PAGE = ROOT / "docs" / "reliability.md"
HOSTS = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl", "trl": "TRL"}
BEGIN, END = "<!-- table of tests/faults -->", "<!-- end of the table -->"


def save(counts: dict[str, dict[str, list[int]]]) -> None:
    """Keep the counts of one run: file to test to [tried, survived]."""
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / "quick.json").write_text(json.dumps(counts, indent=1) + "\n")


def save_training(host: str, rows: int) -> None:
    """Keep how many broken rows a host's reader was given, after all of them were refused as they must be."""
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"training-{host}.json").write_text(json.dumps({"rows": rows}) + "\n")


def markdown() -> str:
    """All parts, as far as they were run."""
    lines = ["| What | Tried | Survived |", "|---|---|---|"]
    for kind, tests in _read("quick.json").items():
        lines.append(f"| **{kind}** | | |")
        lines += [f"| {name} | {tried:,} | {survived:,} |" for name, (tried, survived) in tests.items()]
    trained = {host: _read(f"training-{host}.json") for host in HOSTS}
    if any(trained.values()):
        lines.append(
            "| **Training reads broken pairs alike in every host: each is refused for its reason** | | |"
        )
        lines += [
            f"| broken pairs, read by {HOSTS[host]} | {kept['rows']:,} | {kept['rows']:,} |"
            for host, kept in trained.items()
            if kept
        ]
    fuzz = _read("fuzz.json")
    if fuzz:
        lines.append(f"| **`make fuzz`, {fuzz['minutes']} minutes** | | |")
        lines += [f"| {what} | {tried:,} | {survived:,} |" for what, tried, survived in fuzz["rows"]]
    return "\n".join(lines)


def _read(name: str) -> dict[str, Any]:
    path = KEPT / name
    return json.loads(path.read_text()) if path.is_file() else {}


def main(arguments: list[str]) -> int:
    if not _read("quick.json"):
        print("nothing was tried yet: make test-data", file=sys.stderr)
        return 1
    print(markdown())
    return replace_between(PAGE, BEGIN, END, markdown()) if "--write" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
