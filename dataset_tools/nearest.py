"""What a misspelt name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` Did you mean X or Y?` with the nearest of the known names, or "" where none is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    near = near or [other for other in known if other.lower() == name.lower()]
    return f" Did you mean {' or '.join(near)}?" if near else ""
