"""Which installed distributions hold a top-level package named `dataset_tools`."""

from __future__ import annotations

import re
from importlib.metadata import distributions

OWN = "aspo-plugin"
_FILE = re.compile(r"^dataset_tools/", re.MULTILINE)


def foreign_distributions() -> list[str]:
    """Distributions other than ours that install a top-level `dataset_tools`, as "name version"."""
    found = set()
    for distribution in distributions():
        top = distribution.read_text("top_level.txt")
        if top is not None:
            holds = "dataset_tools" in top.split()
        else:
            holds = bool(_FILE.search(distribution.read_text("RECORD") or ""))
        if holds and distribution.metadata["Name"] != OWN:
            found.add(f"{distribution.metadata['Name']} {distribution.version}")
    return sorted(found)


def warning() -> str | None:
    """What to tell a user about foreign distributions; None where there are none."""
    foreign = foreign_distributions()
    if not foreign:
        return None
    names = " ".join(name.split()[0] for name in foreign)
    return (
        f"{', '.join(foreign)} also installs a package named dataset_tools, into the same folder as {OWN}. "
        f"Files of one may have replaced the other's: `pip uninstall {names}`, then "
        f"`pip install --force-reinstall --no-deps {OWN}`, or use separate environments."
    )
