"""A small fixture of each source dataset, in its exact layout and with its known defects.

Each builder writes files below a folder and returns a `Fixture`: what must come out, what must be refused.
All texts and pictures are made here.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class Expected:
    """A row that must come out: its prompt's messages, its texts, its images."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str
    images: list[bytes]


@dataclass
class Fixture:
    """A source on disk. `bad` maps the id of each refused row to a part of its reason."""

    name: str
    path: Path
    rows: dict[str, Expected] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def jpeg(seed: int, size: int = 24) -> bytes:
    """A JPEG whose pixels a second encoding would change."""
    picture = Image.radial_gradient("L").resize((size, size))
    picture = Image.merge("RGB", [picture.rotate(seed * 37 + turn * 91) for turn in range(3)])
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=60 + seed % 30)
    return stream.getvalue()


def png(seed: int, size: int = 16) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (size, size), ((seed * 71) % 256, (seed * 37) % 256, 90)).save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    body = part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"\0" * 64)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def user(text: str) -> list[dict[str, str]]:
    """A prompt of one user turn."""
    return [{"role": "user", "content": text}]


def answers(seed: int) -> tuple[str, str]:
    """A chosen and a rejected text of several sentences."""
    things = ["a red barn", "two dogs", "the old bridge", "a bowl of 3.5 kg apples", "一只黑猫。它在睡觉"]
    thing = things[seed % len(things)]
    chosen = f"The picture shows {thing}. It was taken at noon, e.g. in spring! Number {seed} is on a sign."
    rejected = f"There is {thing} and a crowd of people.\n\n1. They wave\n2. They sing, see fig. {seed}"
    return chosen, rejected


def raw_strings(values: list[bytes | None]) -> pa.Array:
    """A text column whose bytes need not be UTF-8."""
    binary = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(values), binary.buffers())


def rlaif_v(folder: Path, rows: int = 7, defects: bool = True) -> Fixture:
    """openbmb/RLAIF-V-Dataset: two parquet files, no `<image>` in the question, origin_split a JSON text."""
    fixture = Fixture("rlaif-v", folder)
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
    fixture = Fixture("rlhf-v", folder)
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
    """MMInstruction/VLFeedback: a jsonl, a zip with the images, and a loading script that is not run."""
    fixture = _vl_expected(Fixture("vlfeedback", folder))
    folder.mkdir(parents=True)
    rows = _vl_rows()
    for row in rows:
        row["img_path"] = f"merged_images/{row['id']}.jpg"
    pair = [_completion("Yes. So.", "5", "5", "5"), _completion("No. So.", "1", "1", "1")]
    rows.append({"id": "gone", "prompt": "Q?", "completions": pair, "img_path": "merged_images/gone.jpg"})
    rows.append({"id": "out", "prompt": "Q?", "completions": pair, "img_path": "../secret.jpg"})
    rows.append({"id": "root", "prompt": "Q?", "completions": pair, "img_path": "/etc/secret.jpg"})
    fixture.bad |= {
        "gone-0-1": "not found",
        "out-0-1": "leaves the image root",
        "root-0-1": "leaves the image",
    }
    lines = [json.dumps(row).encode() for row in rows]
    lines += [b'{"id": "broken", "prompt": "cut he', b'{"id": "latin", "prompt": "caf\xe9"}', b"", b"[1]"]
    fixture.bad |= {
        "vlfeedback_80k-6": "the line is not JSON",
        "vlfeedback_80k-7": "the line is not UTF-8",
        "vlfeedback_80k-9": "the line is not a JSON object",
    }
    (folder / "vlfeedback_80k.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    (folder / "VLFeedback.py").write_text("raise RuntimeError('a loading script must not be run')\n")
    with zipfile.ZipFile(folder / "merged_images.zip", "w") as archive:
        for index, name in enumerate("abc"):
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


def llamafactory(folder: Path) -> Fixture:
    """llamafactory/RLHF-V: sharegpt ranking rows; the prompt starts with `<image>` and no newline."""
    fixture = Fixture("llamafactory", folder)
    items = []
    for index in range(3):
        chosen, rejected = answers(index)
        turns = [{"from": "human", "value": f"<image>What is {index}?"}]
        items.append((turns, chosen, rejected, [{"bytes": jpeg(index), "path": None}]))
        fixture.rows[f"rlhf-v-{index}"] = Expected(user(f"What is {index}?"), chosen, rejected, [jpeg(index)])
    chosen, rejected = answers(3)
    turns = [{"from": "human", "value": "Look at <image> first, then <image>. Same?"}]
    turns += [{"from": "gpt", "value": "No."}, {"from": "human", "value": "Why?"}]
    images = [{"bytes": jpeg(3), "path": None}, {"bytes": png(4), "path": None}]
    items.append((turns, chosen, rejected, images))
    prompt = [*user(turns[0]["value"]), {"role": "assistant", "content": "No."}, *user("Why?")]
    fixture.rows["rlhf-v-3"] = Expected(prompt, chosen, rejected, [jpeg(3), png(4)])
    items.append((user_turns("Text only?"), chosen, rejected, []))
    fixture.rows["rlhf-v-4"] = Expected(user("Text only?"), chosen, rejected, [])
    items.append(([*user_turns("A?"), *user_turns("B?")], chosen, rejected, []))
    fixture.bad["rlhf-v-5"] = "do not alternate"
    folder.mkdir(parents=True)
    rows = [
        {
            "conversations": turns,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
            "images": images,
        }
        for turns, chosen, rejected, images in items
    ]
    said = pa.struct([("from", pa.string()), ("value", pa.string())])
    schema = pa.schema([("conversations", pa.list_(said)), ("chosen", said), ("rejected", said)])
    schema = schema.append(pa.field("images", pa.list_(IMAGE)))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "rlhf-v.parquet")
    return fixture


def user_turns(text: str) -> list[dict[str, str]]:
    """A conversation of one human turn, in the sharegpt form."""
    return [{"from": "human", "value": text}]


def llamafactory_alpaca(folder: Path) -> Fixture:
    """An alpaca ranking file with own column names, told by the `dataset_info.json` beside it."""
    fixture = Fixture("llamafactory", folder / "pairs.json", settings={"kind": "llamafactory"})
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "one.png").write_bytes(png(1))
    chosen, rejected = answers(1)
    row = {
        "ask": "<image>\nWhat is this?",
        "more": "Be brief.",
        "sys": "You see.",
        "good": chosen,
        "bad": rejected,
    }
    row |= {"history": [["Hello?", "Hi."]], "pics": ["photos/one.png"]}
    names = {"prompt": "ask", "query": "more", "system": "sys", "chosen": "good", "rejected": "bad"}
    names |= {"history": "history", "images": "pics"}
    info = {"pairs": {"file_name": "pairs.json", "ranking": True, "columns": names}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "pairs.json").write_text(json.dumps([row, {**row, "pics": "photos/none.png"}, "text"]))
    last = {"role": "user", "content": "<image>\nWhat is this?\nBe brief."}
    prompt = [
        {"role": "system", "content": "You see."},
        *user("Hello?"),
        {"role": "assistant", "content": "Hi."},
    ]
    fixture.rows["pairs-0"] = Expected([*prompt, last], chosen, rejected, [png(1)])
    fixture.bad = {"pairs-1": "image file not found", "pairs-2": "not a JSON object"}
    return fixture


def trl(folder: Path) -> Fixture:
    """trl-lib/rlaif-v and HuggingFaceH4/rlaif-v_formatted: typed contents, two splits, images listed."""
    fixture = Fixture("trl", folder)
    part = pa.struct([("text", pa.string()), ("type", pa.string())])
    message = pa.list_(pa.struct([("content", pa.list_(part)), ("role", pa.string())]))
    schema = pa.schema([(name, message) for name in ("prompt", "chosen", "rejected")])
    schema = schema.append(pa.field("images", pa.list_(IMAGE)))
    image = {"type": "image", "text": None}

    def typed(role: str, *parts: Any) -> list[dict[str, Any]]:
        content = [item if isinstance(item, dict) else {"type": "text", "text": item} for item in parts]
        return [{"role": role, "content": content}]

    rows = []
    for index in range(3):
        chosen, rejected = answers(index)
        parts = ("Which one?", image) if index == 2 else (image, "Which one?")
        picture = {"bytes": jpeg(index), "path": None}
        rows.append({"prompt": typed("user", *parts), "images": [picture]})
        rows[-1].update(chosen=typed("assistant", chosen), rejected=typed("assistant", rejected))
        text = "Which one?<image>" if index == 2 else "Which one?"
        name = f"data/train-00000-of-00001-{index}"
        fixture.rows[name] = Expected(user(text), chosen, rejected, [jpeg(index)])
    rows.append({**rows[0], "images": []})
    rows.append({**rows[0], "chosen": typed("user", "Not an answer.")})
    fixture.bad = {
        "data/train-00000-of-00001-3": "1 literal <image> markers for 0 images",
        "data/train-00000-of-00001-4": "chosen is not exactly one assistant message",
    }
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(table.slice(0, 1), folder / "data" / "test-00000-of-00001.parquet")
    return fixture


def trl_implicit(folder: Path) -> Fixture:
    """A TRL set without a prompt column: chosen and rejected are whole conversations."""
    fixture = Fixture("trl", folder / "train.jsonl")
    chosen, rejected = answers(0)
    ask = {"role": "user", "content": "What?"}
    rows = [{"chosen": [ask, {"role": "assistant", "content": chosen}]}]
    rows[0]["rejected"] = [ask, {"role": "assistant", "content": rejected}]
    rows.append({**rows[0], "rejected": [{"role": "user", "content": "Other?"}, rows[0]["rejected"][1]]})
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fixture.rows["train-0"] = Expected(user("What?"), chosen, rejected, [])
    fixture.bad["train-1"] = "differ before their last answer"
    return fixture


def povid(folder: Path) -> Fixture:
    """YiyangAiLab/POVID: a JSON array of two conversations; the images are COCO files elsewhere."""
    fixture = Fixture("povid", folder / "data" / "povid.json", settings={"image_roots": [folder / "coco"]})
    (folder / "coco" / "train2014").mkdir(parents=True)
    (folder / "data").mkdir()
    rows = []
    for index in range(3):
        name = f"train2014/COCO_train2014_{index:012}.jpg"
        if index < 2:
            (folder / "coco" / name).write_bytes(jpeg(index))
        chosen, rejected = answers(index)
        ask = {"from": "human", "value": "<image>\nDescribe."}
        row = {"id": f"{index:06}", "image": name, "conversations": [ask, {"from": "gpt", "value": chosen}]}
        row["rejected_conversations"] = [ask, {"from": "gpt", "value": rejected}]
        rows.append(row)
        fixture.rows[row["id"]] = Expected(user("Describe."), chosen, rejected, [jpeg(index)])
    del fixture.rows["000002"]
    fixture.bad["000002"] = "image file not found: train2014/COCO_train2014_000000000002.jpg"
    fixture.path.write_text(json.dumps(rows, indent=2))
    return fixture


def seva(folder: Path) -> Fixture:
    """SeVa pairs: the column is `reject`; image_id is a file name without its ending."""
    fixture = Fixture("seva", folder / "pairs.json", settings={"image_roots": [folder / "pictures"]})
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "000000012.jpg").write_bytes(jpeg(1))
    chosen, rejected = answers(1)
    row = {"question": "What?\n<image>", "chosen": chosen, "reject": rejected, "image_id": "000000012"}
    (folder / "pairs.json").write_text(
        json.dumps([row, {**row, "image_id": "13"}, {**row, "reject": chosen}])
    )
    fixture.rows["pairs-0"] = Expected(user("What?\n<image>"), chosen, rejected, [jpeg(1)])
    fixture.bad = {"pairs-1": "image file not found: 13", "pairs-2": "chosen equals rejected"}
    return fixture


def mmpr(folder: Path) -> Fixture:
    """OpenGVLab/MMPR: jsonl with one path, a list of paths, or no image at all."""
    fixture = Fixture("mmpr", folder / "mmpr.jsonl", settings={"image_roots": [folder / "images"]})
    (folder / "images").mkdir(parents=True)
    for index in range(2):
        (folder / "images" / f"{index}.png").write_bytes(png(index))
    rows = []
    for image, question in (
        ("0.png", "<image>\nHow many?"),
        (["0.png", "1.png"], "Image-1: <image>\nImage-2: <image>\nSame?"),
        (None, "What is 2 + 2?"),
        (["0.png"], "<image>\n<image>\nSame?"),
    ):
        chosen, rejected = answers(len(rows))
        rows.append({"image": image, "question": question, "chosen": chosen, "rejected": rejected})
        paths = [image] if isinstance(image, str) else image or []
        prompt = user("How many?" if len(rows) == 1 else question)
        images = [png(int(path[0])) for path in paths]
        fixture.rows[f"mmpr-{len(rows) - 1}"] = Expected(prompt, chosen, rejected, images)
    del fixture.rows["mmpr-3"]
    fixture.bad["mmpr-3"] = "2 literal <image> markers for 1 images"
    fixture.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return fixture


def llava_preference(folder: Path) -> Fixture:
    """LLaVA-Human-Preference-10K: preference 1 or 2; conversations sometimes wrapped twice."""
    fixture = Fixture("llava-preference", folder / "prefs.json", settings={"image_roots": [folder / "coco"]})
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "1.jpg").write_bytes(jpeg(1))
    rows = []
    for index, preference in enumerate((1, 2, 3)):
        good, bad = answers(index)
        outputs = (good, bad) if preference == 1 else (bad, good)
        turns: list[Any] = user_turns("<image>\nWhat is it?")
        rows.append({"id": f"p{index}", "image": "1.jpg", "conversations": [turns] if index == 1 else turns})
        rows[-1] |= {
            f"output_{number}": {"from": "llava", "value": text} for number, text in enumerate(outputs, 1)
        }
        rows[-1]["preference"] = preference
        fixture.rows[f"p{index}"] = Expected(user("What is it?"), good, bad, [jpeg(1)])
    del fixture.rows["p2"]
    fixture.bad["p2"] = "preference is 3, expected 1 or 2"
    fixture.path.write_text(json.dumps(rows))
    return fixture


def jsonl(folder: Path) -> Fixture:
    """Plain JSON lines with own column names, a byte order mark, and images below two roots, one a zip."""
    from dataset_tools.sources import Options

    names = {"prompt": "ask", "chosen": "yes", "rejected": "no", "images": "file", "id": "key"}
    fixture = Fixture("jsonl", folder / "own.jsonl")
    roots = [folder / "photos", folder / "more.zip"]
    fixture.settings = {"image_roots": roots, "options": Options(columns=names)}
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "a.jpg").write_bytes(jpeg(1))
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b.png", png(2))
    lines = []
    for key, file, image in (("one", "a.jpg", jpeg(1)), ("two", "b.png", png(2))):
        chosen, rejected = answers(len(lines))
        row = {"key": key, "ask": "What?", "yes": chosen, "no": rejected, "file": file}
        lines.append(json.dumps(row, ensure_ascii=False))
        fixture.rows[key] = Expected(user("What?"), chosen, rejected, [image])
    lines.append(
        '{"key": "half", "ask": "What?", "yes": "\\ud83d half. An emoji.", "no": "No.", "file": "a.jpg"}'
    )
    lines.append('{"key": "short", "ask": "What?", "yes": "Yes."}')
    fixture.bad = {"half": "not Unicode", "short": "rejected is null"}
    fixture.path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode())
    return fixture


BUILDERS = {
    "rlaif-v": rlaif_v,
    "rlhf-v": rlhf_v,
    "vlfeedback": vlfeedback,
    "vlfeedback-parquet": vlfeedback_parquet,
    "vlfeedback-lists": lambda folder: vlfeedback_parquet(folder, as_lists=True),
    "llamafactory": llamafactory,
    "llamafactory-alpaca": llamafactory_alpaca,
    "trl": trl,
    "trl-implicit": trl_implicit,
    "povid": povid,
    "seva": seva,
    "mmpr": mmpr,
    "llava-preference": llava_preference,
    "jsonl": jsonl,
}
