"""Sets whose images lie elsewhere, and rows of one's own."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from tests.support.sources.base import Expected, Fixture, answers, jpeg, png, user
from tests.support.sources.hosts import user_turns


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


def bpo(folder: Path) -> Fixture:
    """renjiepi/BPO: completions with a score and a kind each; the marker ends the prompt."""
    fixture = Fixture("bpo", folder / "bpo.json", settings={"image_roots": [folder / "images"]})
    (folder / "images" / "coco" / "train2017").mkdir(parents=True)
    rows = []
    for index in range(4):
        name = f"coco/train2017/{index:012}.jpg"
        (folder / "images" / name).write_bytes(jpeg(index))
        chosen, rejected = answers(index)
        scored = [(1, chosen, "gt"), (0, rejected, "llm-hal"), (0, f"{rejected} Or so.", "mllm-hal")]
        listed = [{"score": score, "response": text, "type": kind} for score, text, kind in scored]
        rows.append({"prompt": "What is it?\n<image>", "image": name, "completions": listed})
        for other, text in enumerate((rejected, f"{rejected} Or so.")):
            expected = Expected(user("What is it?\n<image>"), chosen, text, [jpeg(index)])
            fixture.rows[f"bpo-{index}-{other}"] = expected
    fixture.skipped = {"tie": len(rows)}
    fixture.path.write_text(json.dumps(rows, indent=4))
    return fixture


def llava_preference(folder: Path) -> Fixture:
    """LLaVA-Human-Preference-10K: preference 1 or 2; conversations sometimes wrapped twice.

    They end with an answer, in whose place LLaVA-RLHF's reward model puts each output.
    """
    path = folder / "llava_7b_v1_preference.json"
    fixture = Fixture("llava-preference", path, settings={"image_roots": [folder / "coco"]})
    (folder / "coco").mkdir(parents=True)
    (folder / "coco" / "1.jpg").write_bytes(jpeg(1))
    rows = []
    for index, preference in enumerate((1, 2, 3)):
        good, bad = answers(index)
        outputs = (good, bad) if preference == 1 else (bad, good)
        turns: list[Any] = user_turns("<image>\nWhat is it?")
        turns += [{"from": "gpt", "value": "What a person or GPT-4 said."}]
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


def table(folder: Path) -> Fixture:
    """A CSV file with a header; an empty field is null; a message list may be a JSON text."""
    from dataset_tools.sources import Options

    names = {"prompt": "ask", "chosen": "good", "rejected": "bad", "images": "photo"}
    fixture = Fixture("jsonl", folder / "rows.csv", settings={"options": Options(columns=names)})
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png(1))
    chosen, rejected = answers(0)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["ask", "good", "bad", "photo"])
    writer.writerow(["What, then?", chosen, rejected, "a.png"])
    writer.writerow([json.dumps([{"role": "user", "content": "As JSON?"}]), chosen, rejected, '["a.png"]'])
    writer.writerow(["What?", "", rejected, "a.png"])
    writer.writerow(["What?", chosen, rejected])
    fixture.path.write_text(text.getvalue(), encoding="utf-8-sig", newline="")
    fixture.rows = {
        "rows-0": Expected(user("What, then?"), chosen, rejected, [png(1)]),
        "rows-1": Expected(user("As JSON?"), chosen, rejected, [png(1)]),
    }
    fixture.bad = {"rows-2": "chosen is null", "rows-3": "another number of fields"}
    return fixture


def packed_lines(folder: Path) -> Fixture:
    """`rows.jsonl.gz`, and its images in a zip that lies beside it."""
    fixture = Fixture("trl", folder)
    folder.mkdir(parents=True)
    chosen, rejected = answers(3)
    row = {"prompt": "What?", "chosen": chosen, "rejected": rejected, "image": "pics/1.png"}
    with gzip.open(folder / "rows.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n" + json.dumps({**row, "image": "pics/2.png"}) + "\n")
    with zipfile.ZipFile(folder / "pics.zip", "w") as archive:
        archive.writestr("pics/1.png", png(1))
    fixture.rows["rows-0"] = Expected(user("What?"), chosen, rejected, [png(1)])
    fixture.bad["rows-1"] = "image file not found"
    return fixture
