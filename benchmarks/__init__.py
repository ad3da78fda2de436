"""Benchmarks: each file says at its top what it measures and how to run it."""

from __future__ import annotations

import os
from pathlib import Path


def as_installed(cache: Path) -> dict[str, str]:
    """The environment for timed commands: compiled modules are kept in `cache`, as beside installed ones.

    Where PYTHONDONTWRITEBYTECODE is set, every start would compile every source file again.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(cache)}
