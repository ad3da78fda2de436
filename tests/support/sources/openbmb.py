"""openbmb/RLAIF-V-Dataset and openbmb/RLHF-V-Dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.sources.base import IMAGE, Expected, Fixture, answers, bomb, jpeg, png, raw_strings, user


def rlaif_v(folder: Path, rows: int = 7, defects: bool = True) -> Fixture:
    """openbmb/RLAIF-V-Dataset: two parquet files, no `<image>` in the question, origin_split a JSON text."""
    fixture = Fixture("rlaif-v", folder, origin="rlaif-v")
    items: list[dict[str, Any]] = []

    def add(index: int, **changes: Any) -> None:
        chosen, rejected = answers(index)
        item = {
            "ds_name": "RLAIF-V",
            "image": {"bytes": jpeg(index), "path": f"images/{index}.jpg"},
            "question": f"What is in picture {index}?",
            "chosen": chosen,
            "rejected": rejected,
            "origin_dataset": "synthetic",
            "origin_split": json.dumps({"model": "tiny", "type": "question_answering"}),
            "idx": str(index),
            "image_path": f"images/{index}.jpg",
        }
        items.append({**item, **changes})
        if not changes:
            images = [item["image"]["bytes"]]
            fixture.rows[str(index)] = Expected(user(item["question"]), chosen, rejected, images)

    for index in range(rows):
        add(index)
    if defects:
        good = jpeg(50, size=64)
        wrong = {
            "null-chosen": ({"chosen": None}, "chosen is null"),
            "blank-rejected": ({"rejected": " \n"}, "rejected is empty"),
            "null-question": ({"question": None}, "question is null"),
            "same": ({"chosen": "One. Two.", "rejected": " One. Two."}, "chosen equals rejected"),
            "no-image": ({"image": None}, "no image"),
            "no-bytes": ({"image": {"bytes": None, "path": "gone.jpg"}}, "not found"),
            "empty-image": ({"image": {"bytes": b"", "path": "a.jpg"}}, "the image is empty"),
            "cut-jpeg": ({"image": {"bytes": good[: len(good) // 2], "path": "a.jpg"}}, "cut short"),
            "cut-png": ({"image": {"bytes": png(1)[:-9], "path": "a.png"}}, "cut short"),
            "text-image": ({"image": {"bytes": b"<html>404</html>", "path": "a.jpg"}}, "not an image"),
            "bomb": ({"image": {"bytes": bomb(), "path": "a.png"}}, "pixels"),
            "marker": ({"question": "<image> and <image>, which?"}, "2 literal <image> markers for 1"),
            "marker-in-answer": ({"chosen": "See <image>. Yes."}, "chosen holds a literal <image>"),
        }
        for number, (name, (changes, reason)) in enumerate(wrong.items(), start=100):
            add(number, **changes, idx=name)
            fixture.bad[name] = reason
        add(3, question="The same id again?")
        fixture.bad["3"] = "duplicate id"
        add(200, idx="not-utf8", question="@@@")
        fixture.bad["RLAIF-V-Dataset_001-"] = "not UTF-8"
    half = len(items) // 2
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((items[:half], items[half:])):
        _write_rlaif_v(folder / f"RLAIF-V-Dataset_{number:03}.parquet", part)
    if defects:
        last = len(items) - half - 1
        fixture.bad[f"RLAIF-V-Dataset_001-{last}"] = fixture.bad.pop("RLAIF-V-Dataset_001-")
    return fixture


def _write_rlaif_v(path: Path, items: list[dict[str, Any]]) -> None:
    names = [*items[0]]
    columns = []
    for name in names:
        values = [item[name] for item in items]
        if name == "image":
            columns.append(pa.array(values, IMAGE))
        else:
            texts = [None if value is None else value.encode() for value in values]
            columns.append(raw_strings([b"\xff\xfe bad" if text == b"@@@" else text for text in texts]))
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)


def rlhf_v(folder: Path) -> Fixture:
    """openbmb/RLHF-V-Dataset: question and answers as JSON inside one text column."""
    fixture = Fixture("rlhf-v", folder, origin="rlhf-v")
    items = []
    for index in range(4):
        chosen, rejected = answers(index)
        document = json.dumps({"question": "Describe it.", "chosen": chosen, "rejected": rejected})
        items.append({"text": document, "idx": index})
        fixture.rows[str(index)] = Expected(user("Describe it."), chosen, rejected, [jpeg(index)])
    items += [{"text": '{"question": "cut', "idx": 4}, {"text": '["a list"]', "idx": 5}]
    items += [{"text": json.dumps({"question": "Q?", "chosen": "A."}), "idx": 6}]
    fixture.bad = {"4": "text is not JSON", "5": "not a JSON object", "6": "rejected is null"}
    for item in items:
        image = {"bytes": jpeg(item["idx"]), "path": f"{item['idx']}.jpg"}
        item.update(ds_name="RLHF-V", image=image, origin_dataset="VQAv2", origin_split="{}")
        item.update(image_path=f"{item['idx']}.jpg")
    folder.mkdir(parents=True)
    schema = pa.schema([("idx", pa.int64()), ("image", IMAGE), ("text", pa.string())])
    for name in ("ds_name", "origin_dataset", "origin_split", "image_path"):
        schema = schema.append(pa.field(name, pa.string()))
    pq.write_table(pa.Table.from_pylist(items, schema=schema), folder / "RLHF-V-Dataset.parquet")
    return fixture
