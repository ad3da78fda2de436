"""The keys that recipes of a host may have, read from the installed host's sources: it is not imported."""

from __future__ import annotations

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aspo_plugin.config import json_schema
from dataset_tools.nearest import did_you_mean

TITLES = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl"}
_SOURCES = {
    "llamafactory": (("llamafactory", "hparams/*.py"), ("transformers", "training_args*.py")),
    "axolotl": (("axolotl", "utils/schemas/*.py"), ("axolotl", "integrations/*/args.py")),
}


def known_keys(host: str) -> set[str] | None:
    """Every key of the installed host's recipes and of ASPO there; None where the host is not installed.

    A few more are among them, such as keys inside of other keys.
    """
    if not find_spec(host):
        return None
    own = set(json_schema("aspo_{}")) if host == "llamafactory" else {"aspo"}
    return own.union(*(_fields(package, pattern) for package, pattern in _SOURCES[host]))


def _fields(package: str, pattern: str) -> set[str]:
    """The annotated attributes of all classes in the files of a package."""
    spec = find_spec(package)
    found = set()
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for file in Path(folder).glob(pattern):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            found |= {
                line.target.id
                for part in ast.walk(tree)
                if isinstance(part, ast.ClassDef)
                for line in part.body
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
            }
    return found


def check_keys(
    host: str, recipe: dict[str, Any], given: dict[str, Any], tell: Callable[[str], Any] = lambda text: None
) -> None:
    """Raise `ValueError` where a key of `given`, which replaces one of the recipe's, is none of the host's.

    `tell` hears of such keys in the recipe itself, and, where no host can judge, of a key that is
    nearly one of the recipe's.
    """
    block = {**recipe, **given}.get("aspo") if host == "axolotl" else None
    for key in block if isinstance(block, dict) else ():
        if key not in json_schema():
            raise ValueError(f"the block aspo has no key {key}.{did_you_mean(key, json_schema())}")
    known, title = known_keys(host), TITLES[host]
    if known is None:
        for key in given:
            near = "" if key in recipe else did_you_mean(key, recipe)
            if near:
                tell(f"whether {title}, which is not installed here, has a key {key} is not known.{near}")
        return
    if unknown := [key for key in given if key not in known]:
        key = unknown[0]
        if "." in key and key.partition(".")[0] in known:
            raise ValueError(f"{key} is a key inside of another one: set it in a copy of the recipe.")
        raise ValueError(f"{title} has no key {key}.{did_you_mean(key, known)}")
    for key in recipe:
        if key not in known:
            tell(f"note: {title} has no key {key}, which the recipe sets.{did_you_mean(key, known)}")
