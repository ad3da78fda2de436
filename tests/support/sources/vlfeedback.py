"""MMInstruction/VLFeedback, as published and in its parquet forms."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.sources.base import Expected, Fixture, jpeg, user, write_lines


def _completion(text: str, *ratings: str) -> dict[str, Any]:
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    marks = {
        name: {"Rating": rating, "Rationale": "why"} for name, rating in zip(aspects, ratings, strict=True)
    }
    return {"annotations": marks, "model": "tiny", "response": text}


VL_ANSWERS = ["Best of all. Truly.", "Good enough. Mostly.", "Weak. Wrong colour.", "Unrated. Nobody looked."]


def _vl_rows() -> list[dict[str, Any]]:
    """Row a: means 5, 4, 2 and one rating that is not a number. Row b: two ties. Row c: one completion."""
    best, good, weak, unrated = VL_ANSWERS
    rated = [_completion(best, "5", "5", "5"), _completion(good, "5", "3", "4")]
    first = [*rated, _completion(weak, "1", "3", "2"), _completion(unrated, "5", "N/A", "5")]
    tied = [_completion("Tie one. Yes.", "4", "4", "4"), _completion("Tie two. No.", "5", "4", "3")]
    rows = [("a", first), ("b", tied), ("c", [_completion("Alone. Here.", "1", "1", "1")])]
    return [
        {"id": name, "prompt": f"Question {name}?", "models": ["tiny"] * len(items), "completions": items}
        for name, items in rows
    ]


def _vl_expected(fixture: Fixture) -> Fixture:
    best, good, weak, _ = VL_ANSWERS
    for name, chosen, rejected in (("a-0-1", best, good), ("a-0-2", best, weak), ("a-1-2", good, weak)):
        fixture.rows[name] = Expected(user("Question a?"), chosen, rejected, [jpeg(0)])
    fixture.skipped = {"a rating is not a number": 3, "tie": 1}
    fixture.bad["c"] = "1 completions, at least two"
    return fixture


def vlfeedback(folder: Path) -> Fixture:
    """MMInstruction/VLFeedback: two jsonl files, a zip with the images, and a loading script that is not run.

    The lines name no image: the loading script makes `merged_images/{id}.jpg` of the id, and ids repeat.
    """
    fixture = _vl_expected(Fixture("vlfeedback", folder, origin="vlfeedback"))
    folder.mkdir(parents=True)
    rows = _vl_rows()
    pair = [_completion("Yes. So.", "5", "5", "5"), _completion("No. So.", "1", "1", "1")]
    rows.append({"id": "gone", "prompt": "Q?", "models": ["tiny"] * 2, "completions": pair})
    rows.append({"id": "../secret", "prompt": "Q?", "models": ["tiny"] * 2, "completions": pair})
    rows += [
        {"id": "twice", "prompt": f"Q{n}?", "models": ["tiny"] * 2, "completions": pair} for n in range(2)
    ]
    fixture.bad |= {"gone-0-1": "not found", "../secret-0-1": "leaves the image root"}
    fixture.skipped |= {"its id repeats, so that its picture may be another row's": 2}
    lines = [json.dumps(row).encode() for row in rows]
    lines += [b'{"id": "broken", "prompt": "cut he', b'{"id": "latin", "prompt": "caf\xe9"}', b"", b"[1]"]
    fixture.bad |= {
        "vlfeedback_80k-7": "the line is not JSON",
        "vlfeedback_80k-8": "the line is not UTF-8",
        "vlfeedback_80k-10": "the line is not a JSON object",
    }
    (folder / "vlfeedback_80k.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    write_lines(folder / "instruction_source.jsonl", [{"id": row["id"], "source": "svit"} for row in rows])
    fixture.left = {"instruction_source.jsonl": "not the file of pairs"}
    (folder / "VLFeedback.py").write_text("raise RuntimeError('a loading script must not be run')\n")
    with zipfile.ZipFile(folder / "merged_images.zip", "w") as archive:
        for index, name in enumerate([*"abc", "twice"]):
            archive.writestr(f"merged_images/{name}.jpg", jpeg(index))
        archive.writestr("../secret.jpg", jpeg(9))
    return fixture


def vlfeedback_parquet(folder: Path, as_lists: bool = False) -> Fixture:
    """The parquet forms: completions as a list of structs, or (`as_lists`) as a struct of lists."""
    fixture = _vl_expected(Fixture("vlfeedback", folder))
    rows = _vl_rows()
    for index, row in enumerate(rows):
        row["image"] = {"bytes": jpeg(index), "path": f"{row['id']}.jpg"}
        if as_lists:
            items = row["completions"]
            row["completions"] = {key: [item[key] for item in items] for key in items[0]}
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    return fixture
