"""The tested versions of the hosts, from the constraint files and the suites of `tools/run_tests.py`.

    python tools/tested_versions.py            print the table
    python tools/tested_versions.py --write    put it into README.md and docs/versions.md
    python tools/tested_versions.py --check    fail where a page holds another one (`make check`)

Standard library only: it runs outside every environment.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.run_tests import SUITES, TARGETS  # noqa: E402

PAGES = (ROOT / "README.md", ROOT / "docs" / "versions.md")
BEGIN, END = "<!-- tested versions -->", "<!-- end of the tested versions -->"
# What an environment is there for, by the folder of its tests.
HOSTS = {"tests/llamafactory": "llamafactory", "tests/axolotl": "axolotl", "tests/trl": "trl"}
NAMES = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl", "trl": "TRL"}
SHOWN = ("transformers", "torch", "datasets", "peft")
COMMANDS = {"all": "make test", "recipes": "make test-recipes", "hosts": "make test-hosts"}


def versions(environment: str) -> dict[str, str]:
    """Package to version of a constraint file, and `python`."""
    text = (ROOT / "constraints" / f"{environment}.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", text, re.MULTILINE))
    named = re.search(r"^# Python (\S+)$", text, re.MULTILINE)
    if not named:
        raise ValueError(f"constraints/{environment}.txt names no Python: make constraints")
    return {"python": named[1], **found}


def rows() -> list[list[str]]:
    """One for each version of a host that a command tests."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for target, command in COMMANDS.items():
        for suite in (name for lane in TARGETS[target] for name in lane):
            environment, folders = SUITES[suite]
            for host in _hosts(environment, folders):
                for folder in (name for name in folders if not name.startswith("-")):
                    found.setdefault((host, environment), {}).setdefault(command, []).append(folder)
    table = []
    for (host, environment), run in found.items():
        have = versions(environment)
        what = "; ".join(f"`{command}`: {', '.join(sorted(set(run[command])))}" for command in run)
        table.append([NAMES[host], have[host], have["python"], *(have[name] for name in SHOWN), what])
    order = list(NAMES.values())
    return sorted(table, key=lambda row: (order.index(row[0]), [-int(n) for n in row[1].split(".")]))


def _hosts(environment: str, folders: list[str]) -> list[str]:
    """The hosts that a suite tests: that of its folder; of tests for all hosts, that of the environment."""
    own = [HOSTS[folder] for folder in folders if folder in HOSTS]
    return own or [host for host in NAMES if environment.startswith(host)]


def table() -> str:
    head = ["host", "version", "Python", *SHOWN, "what is run"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows()])


def main(arguments: list[str]) -> int:
    if not arguments:
        print(table())
        return 0
    stale = []
    for page in PAGES:
        old = page.read_text(encoding="utf-8")
        before, begin, rest = old.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{page.name} has no {BEGIN} ... {END}")
        new = f"{before}{BEGIN}\n{table()}\n{END}{after}"
        if new == old:
            continue
        stale.append(page.name)
        if arguments == ["--write"]:
            page.write_text(new, encoding="utf-8")
    if stale and arguments != ["--write"]:
        print(
            f"{', '.join(stale)}: other versions than constraints/: python tools/tested_versions.py --write"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
