"""One set of pairs, most of them broken, that every host must read alike: the same rows refused for the same
reasons, listed in the same words, and no run that stops or waits."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

from tests.faults import table
from tests.support import data

LINE = ("split", "dataset", "row", "id", "reason", "message", "detail", "prompt", "chosen")


def rows(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The rows, and the reason of each that is refused by its id. A pipe and a file are made in `folder`."""
    made: list[dict[str, Any]] = []
    expected: dict[str, str] = {}

    def row() -> dict[str, Any]:
        new = data.rows(1, 50 + len(made), sentences=3)[0]
        made.append(new)
        return new

    def broken(reason: str) -> dict[str, Any]:
        new = row()
        expected[new["id"]] = reason
        return new

    row()
    for encoded in _images():
        broken("image")["images"][0]["bytes"] = encoded
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "pipe")
    for path in (str(folder / "pipe"), str(folder / "nothing.png"), str(folder), "/dev/zero", None):
        broken("image")["images"][0].update(bytes=None, path=path)
    broken("image")["images"] = [None]
    broken("markers")["prompt"][0]["content"] = "<image> and <image>"
    broken("markers")["chosen"][0]["content"] += " An <image>."
    for side in ("chosen", "rejected"):
        broken("empty")[side][0]["content"] = " \n"
        broken("turns")[side] = []
        broken("turns")[side] = None
        broken("turns")[side][0]["content"] = None
        broken("unread")[side] = [None]
    broken("turns")["prompt"] = []
    broken("turns")["prompt"] = None
    broken("turns")["prompt"][0]["content"] = None
    for values in ([0.1], [0.1] * 4, []):
        broken("similarity")["chosen_similarity"] = values
    for value in (float("inf"), float("-inf")):
        broken("similarity")["chosen_similarity"] = [0.1, value, 0.2]
    for start, end in ((-1, 3), (3, 3), (5, 10_000), (None, 4)):
        broken("sentences")["chosen_sentences"][0] = {"start": start, "end": end}
    new = broken("sentences")
    new["chosen_sentences"].reverse()
    new = broken("prefix")
    new["untrained_prefix"] = len(new["chosen"][0]["content"])
    broken("prefix")["untrained_prefix"] = -1
    # Odd, and trained: what is missing is not known, which is no fault.
    row()["chosen_similarity"] = [None, float("nan"), 0.2]
    row()["chosen_sentences"] = None
    made[-1]["chosen_similarity"] = None
    row()["images"] = None
    row()
    return made, expected


def _images() -> list[bytes]:
    from PIL import Image

    stream = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(stream, "PNG")
    whole = stream.getvalue()
    size = (60_000).to_bytes(4, "big")
    header = b"IHDR" + size + size + whole[24:29]
    bomb = whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    return [b"", b"no image", whole[: len(whole) // 2], bomb, script]


def check(
    host: str, path: Path, made: list[dict[str, Any]], expected: dict[str, str], split: str = "training"
) -> None:
    """Hold `aspo_rejected.jsonl` of a host against what every host must say; it is counted for the page."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {record["id"]: record["reason"] for record in records} == expected
    assert len(records) == len(expected)
    for record in records:
        assert tuple(record) == LINE and record["split"] == split
        assert made[record["row"]]["id"] == record["id"]
        assert record["message"] and "{" not in record["message"]
        assert all(isinstance(record[name], str) for name in LINE if name not in ("row", "id"))
    table.save_training(host, len(expected))
