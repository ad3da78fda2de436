"""What a misspelt name may have meant, and whether it can be of the Hub at all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

_OF_FILES = (
    *(".json", ".jsonl", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zip", ".tar", ".yaml", ".yml"),
    *(".safetensors", ".bin", ".gguf", ".html"),
)


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


def not_here(name: str) -> str | None:
    """Why a name that is no path of this machine is not asked of the Hub; None where it may be of there.

    An id of the Hub is owner/name. What can only be a path does not exist, and the nearest one is named.
    """
    path_alone = name.startswith((".", "/", "~", "\\")) or "\\" in name or name.count("/") > 1
    if path_alone or name.lower().endswith(_OF_FILES):
        return f"{name} does not exist.{nearest_path(name)}"
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return f"{name} does not exist, and it is not a Hub id, which is owner/name.{nearest_path(name)}"
    return None


def nearly_here(name: str) -> str:
    """` Did you mean X?` where owner/name, which the Hub does not have, is nearly a path of this machine."""
    return nearest_path(name) if Path(name).parent.is_dir() else ""
