"""Damage for files and rows, from a seed: the same case every time."""

from __future__ import annotations

import random
from typing import Any

ODD = [
    None, True, 5, -1, 2**70, 1.5, float("nan"), float("inf"), "", " ", "\0", "\ud800", "\x1b[31mred",
    "a" * 100_000,
    "<image>", "<image>" * 50, [], [None], [[]], [[[]]], {}, {"role": "user"}, {"role": 5, "content": 5},
    {"bytes": None, "path": None}, {"bytes": "x", "path": 5}, [{"role": "user", "content": None}],
    [{"role": "<script>", "content": "x"}], [None, {"role": "user", "content": "x"}], ["a", 5],
    {"a": {"b": [1]}},
    "/etc/passwd", "../../x.png", "\u202e\u0000", "\ufeff", b"bytes".decode(), [1, 2, 3], {"": ""},
]  # fmt: skip
"""Values that a column may hold and nobody expects."""


def mutated_row(row: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A row with one to three odd values, at its top or deeper, a column left out, or one too many."""
    changed = {key: _copied(value) for key, value in row.items()}
    for _ in range(chance.randint(1, 3)):
        if not changed:
            return changed
        key = chance.choice(sorted(changed))
        kind = chance.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.15:
            changed[chance.choice(["", "id", "images", "system", "history", "prompt", "\x1b[2J"])] = _copied(
                chance.choice(ODD)
            )
        elif kind < 0.6:
            changed[key] = _copied(chance.choice(ODD))
        else:
            changed[key] = _deeper(changed[key], chance)
    return changed


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _deeper(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict) and value:
        key = chance.choice(sorted(value, key=str))
        value[key] = _deeper(value[key], chance) if chance.random() < 0.5 else _copied(chance.choice(ODD))
        return value
    if isinstance(value, list) and value:
        place = chance.randrange(len(value))
        value[place] = _deeper(value[place], chance) if chance.random() < 0.5 else _copied(chance.choice(ODD))
        return value
    return _copied(chance.choice(ODD))


def mutated_bytes(data: bytes, chance: random.Random) -> bytes:
    """Bytes that are cut, flipped, zeroed, doubled, shuffled or grown somewhere."""
    body = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        if not body:
            break
        at, size = chance.randrange(len(body)), chance.choice([1, 4, 64, 1024])
        kind = chance.randrange(7)
        if kind == 0:
            del body[at:]
        elif kind == 1:
            body[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            body[at : at + size] = bytes(min(size, len(body) - at))
        elif kind == 3:
            del body[at : at + size]
        elif kind == 4:
            body[at:at] = body[at : at + size]
        elif kind == 5:
            body[at : at + size] = chance.randbytes(min(size, len(body) - at))
        else:
            # Where formats keep their lengths: the end of a parquet or zip file, the head of an image.
            at = chance.choice(
                [chance.randrange(min(64, len(body))), -1 - chance.randrange(min(64, len(body)))]
            )
            body[at] = chance.randrange(256)
    return bytes(body)
