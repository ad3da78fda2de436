"""What a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean X or Y?` with the nearest of the known names, or "" where none is near."""
    return _asked(nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most two of the known names, the nearest first; none where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return near or [other for other in known if other.lower() == name.lower()]


def nearest_path(path: Path | str) -> str:
    """` Did you mean X?` for a path that does not exist, with what is called nearly so in the same folder.

    Where that folder is missing, too, the first missing one on the way is meant.
    """
    path = Path(path).expanduser()
    try:
        while not path.parent.exists() and path.parent != path:
            path = path.parent
        names = sorted(other.name for other in path.parent.iterdir())
    except OSError:
        return ""
    return _asked([str(path.parent / name) for name in nearest(path.name, names)])


def _asked(near: list[str]) -> str:
    return f" Did you mean {' or '.join(near)}?" if near else ""
