"""The command that would read rows of an unknown layout, guessed from their columns."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from dataset_tools.sources.images import looks_like_image

# Likeliest first; a name fits as a whole word of the column's name.
_WORDS = {
    "chosen": (
        "chosen",
        "preferred",
        "good",
        "better",
        "best",
        "win",
        "winner",
        "positive",
        "accepted",
        "yes",
    ),
    "rejected": (
        "rejected",
        "reject",
        "dispreferred",
        "bad",
        "worse",
        "worst",
        "lose",
        "loser",
        "negative",
        "no",
    ),
    "prompt": ("prompt", "question", "query", "instruction", "input", "ask", "user", "text", "messages"),
    "images": ("images", "image", "picture", "pictures", "photo", "img", "path", "file", "filename"),
    "id": ("id", "idx", "key", "uid", "uuid", "index"),
    "system": ("system",),
}


OTHER_SHAPES = (
    "Rows of another shape (WebDataset, ORC, rows inside of an object) become a parquet file in two lines of "
    'the datasets library: docs/data.md, "Other shapes".'
)
"""What a message says of files and rows that `convert` does not read."""


def guess_columns(columns: Mapping[str, Any]) -> dict[str, str]:
    """The column that each of prompt, chosen, rejected, images, id and system may be, where one fits."""
    found: dict[str, str] = {}
    pictures = [name for name, value in columns.items() if looks_like_image(name, value)]
    for role, words in _WORDS.items():
        free = [name for name in columns if name not in found.values()]
        if role == "images":
            free = pictures
        elif role != "id":
            free = [name for name in free if isinstance(columns[name], str | list) and name not in pictures]
        named = [name for word in words for name in free if word in re.split(r"[^a-z]+", name.lower())]
        if named:
            found[role] = named[0]
        elif role == "images" and pictures:
            found[role] = ",".join(pictures)
    return found


def proposal(columns: Mapping[str, Any], source: str, out: str) -> str:
    """The command to try, with a placeholder in capitals for what could not be guessed."""
    found = guess_columns(columns)
    for role in ("prompt", "chosen", "rejected"):
        found.setdefault(role, role.upper())
    order = [role for role in ("prompt", "chosen", "rejected", "images", "id", "system") if role in found]
    mapping = " ".join(f"--column {role}={shlex.quote(found[role])}" for role in order if found[role] != role)
    return f"aspo-data convert {shlex.quote(source)} {shlex.quote(out)} --from jsonl {mapping}".rstrip()
