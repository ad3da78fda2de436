"""Other sets as their Hub repositories hold them."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.sources.base import IMAGE, Expected, Fixture, answers, jpeg, png, user, write_lines


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


def mmpr_published(folder: Path) -> Fixture:
    """OpenGVLab/MMPR-v1.2: annotations in a zip, images in a zip cut in two, roots in meta.json.

    Two files of rows name images alike, which lie in two folders; one name has "train" in it.
    """
    fixture = Fixture("mmpr", folder)
    folder.mkdir(parents=True)
    meta, lines = {}, {}
    for index, name in enumerate(("ai2d", "m3cot_train_extracted")):
        chosen, rejected = answers(index)
        row = {"image": "0.png", "question": "<image>\nHow many?", "chosen": chosen, "rejected": rejected}
        lines[f"annotations/{name}.jsonl"] = json.dumps(row) + "\n"
        meta[name] = {
            "root": f"MMPR-v1.2/images/{name}",
            "annotation": f"MMPR-v1.2/annotations/{name}.jsonl",
            "data_augment": False,
            "repeat_time": 1,
            "length": 1,
        }
        fixture.rows[f"annotations/{name}-0"] = Expected(user("How many?"), chosen, rejected, [png(index)])
    chosen, rejected = answers(5)
    lines["annotations/text.jsonl"] = json.dumps(
        {"question": "2 + 2?", "chosen": chosen, "rejected": rejected}
    )
    fixture.rows["annotations/text-0"] = Expected(user("2 + 2?"), chosen, rejected, [])
    (folder / "meta.json").write_text(json.dumps(meta))
    with zipfile.ZipFile(folder / "annotations.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in lines.items():
            archive.writestr(name, text)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for index, name in enumerate(meta):
            archive.writestr(f"images/{name}/0.png", png(index))
    data = stream.getvalue()
    (folder / "images.zip_aa").write_bytes(data[:150])
    (folder / "images.zip_ab").write_bytes(data[150:])
    return fixture


def mm_rlhf(folder: Path) -> Fixture:
    """yifanzhang114/MM-RLHF: two jsonl files and a parquet; images in four zips, videos in a fifth."""
    fixture = Fixture("trl", folder)
    rows = []
    for index, kind in enumerate(("long", "mcq", "safety", "short")):
        chosen, rejected = answers(index)
        rows.append({"image": f"{kind}/{index}.jpg", "prompt": f"What is {kind}?"})
        rows[-1] |= {"chosen": chosen, "rejected": rejected}
        fixture.rows[f"dpo_pairs-{index}"] = Expected(
            user(f"What is {kind}?"), chosen, rejected, [jpeg(index)]
        )
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / f"{kind}.zip", "w") as archive:
            archive.writestr(f"{kind}/{index}.jpg", jpeg(index))
    rows.append({"video": "video/1.mp4", "prompt": "What?", "chosen": chosen, "rejected": rejected})
    with zipfile.ZipFile(folder / "video.zip", "w") as archive:
        archive.writestr("video/1.mp4", b"film")
    fixture.bad["dpo_pairs-4"] = "the row has a video"
    write_lines(folder / "dpo_pairs.jsonl", rows)
    write_lines(folder / "data.jsonl", [{"question": "?", "answers": []}])
    (folder / "data").mkdir()
    pq.write_table(pa.table({"question": ["?"]}), folder / "data" / "train-00000-of-00001.parquet")
    fixture.left = {
        "data.jsonl": "not the file of pairs",
        "data/train-00000-of-00001.parquet": "not the file of pairs",
    }
    return fixture


def omnialign(folder: Path) -> Fixture:
    """PhoenixZ/OmniAlign-V-DPO: a jsonl for each topic, the images in one tar."""
    fixture = Fixture("trl", folder)
    folder.mkdir(parents=True)
    with tarfile.open(folder / "images.tar", "w") as archive:
        for index, topic in enumerate(("chart", "knowledge")):
            chosen, rejected = answers(index)
            row = {"image": f"images/{topic}/{index}.jpg", "prompt": "<image>\nTell me."}
            write_lines(folder / f"{topic}.jsonl", [{**row, "chosen": chosen, "rejected": rejected}])
            member = tarfile.TarInfo(f"./images/{topic}/{index}.jpg")
            member.size = len(jpeg(index))
            archive.addfile(member, io.BytesIO(jpeg(index)))
            fixture.rows[f"{topic}-0"] = Expected(user("Tell me."), chosen, rejected, [jpeg(index)])
    return fixture


def vl_rewardbench(folder: Path) -> Fixture:
    """MMInstruction/VL-RewardBench: two answers, the rank of each (0 is better); one split, test."""
    fixture = Fixture("vl-rewardbench", folder, settings={"split": "test"})
    rows = []
    for index, ranking in enumerate(([0, 1], [1, 0], [0, 0], [0])):
        chosen, rejected = answers(index)
        response = [chosen, rejected] if ranking[0] == 0 else [rejected, chosen]
        rows.append({"id": f"q{index}", "query": "Which?", "response": response})
        rows[-1] |= {"image": {"bytes": jpeg(index), "path": f"{index}.jpg"}, "human_ranking": ranking}
        rows[-1] |= {"models": ["m1", "m2"], "judge": "j", "rationale": "", "query_source": "wildvision"}
        rows[-1] |= {"ground_truth": ""}
        if index < 2:
            fixture.rows[f"q{index}"] = Expected(user("Which?"), chosen, rejected, [jpeg(index)])
    fixture.skipped = {"tie": 1}
    fixture.bad["q3"] = "not two lists of one length"
    texts = ("models", "judge", "rationale", "query_source", "ground_truth")
    schema = pa.schema([("id", pa.string()), ("query", pa.string()), ("response", pa.list_(pa.string()))])
    schema = schema.append(pa.field("image", IMAGE)).append(pa.field("human_ranking", pa.list_(pa.int64())))
    for name in texts:
        schema = schema.append(pa.field(name, pa.list_(pa.string()) if name == "models" else pa.string()))
    (folder / "data").mkdir(parents=True)
    path = folder / "data" / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    return fixture


def wildvision(folder: Path) -> Fixture:
    """WildVision/wildvision-internal-data: battles and chats as configs, their splits named test."""
    fixture = Fixture("arena", folder, settings={"config": "battle", "split": "test"})
    rows: list[dict[str, Any]] = []

    def battle(winner: str, first: str, second: str, *more: dict[str, str]) -> None:
        sides = [[*user("Who?"), *more, {"role": "assistant", "content": text}] for text in (first, second)]
        rows.append({"question_id": f"b{len(rows)}", "model_a": "x", "model_b": "y"})
        rows[-1] |= {"conversation_a": sides[0], "conversation_b": sides[1], "language": "English"}
        rows[-1] |= {"image": {"bytes": jpeg(len(rows)), "path": None}, "turn": 1, "anony": True}
        rows[-1] |= {"winner": winner, "tstamp": 1, "judge": "arena_user"}

    for index, winner in enumerate(("model_a", "model_b")):
        chosen, rejected = answers(index)
        battle(winner, *((chosen, rejected) if winner == "model_a" else (rejected, chosen)))
        fixture.rows[f"b{index}"] = Expected(user("Who?"), chosen, rejected, [jpeg(index + 1)])
    battle("tie (bothbad)", "No. No.", "Yes. No.")
    battle("nobody", "No. No.", "Yes. No.")
    battle("model_a", "A. B.", "C. D.")
    rows[-1]["conversation_b"] = [*user("Who else?"), {"role": "assistant", "content": "C. D."}]
    fixture.bad["b3"] = "nor a tie: 'nobody'"
    fixture.skipped = {"tie": 1, "the two conversations differ before their last answer": 1}
    for config in ("battle", "chat"):
        (folder / config).mkdir(parents=True)
        table = pa.Table.from_pylist(
            rows if config == "battle" else [{"conversation": rows[0]["conversation_a"]}]
        )
        pq.write_table(table, folder / config / "test-00000-of-00001.parquet")
    fixture.left = {"chat/test-00000-of-00001.parquet": "not of config battle"}
    return fixture


CONTEXT = "The street is busy."
ENDS = ("Two cars wait. Red ones.", "An elephant waits. A grey one.")
ASKED = "Describe this image in detail."


def _sentinel(folder: Path, file: str) -> tuple[Fixture, dict[str, Any]]:
    """Pictures of Visual Genome, and the list of pictures that the pairs were made of."""
    fixture = Fixture("sentinel", folder / "data", settings={"image_roots": [folder / "vg"]})
    for place in ("VG_100K/7.jpg", "VG_100K_2/8.jpg"):
        (folder / "vg" / place).parent.mkdir(parents=True)
        (folder / "vg" / place).write_bytes(jpeg(int(Path(place).stem)))
    picture = {"image_id": "7", "image_path": "/data/visual_genome/VG_100K/7.jpg", "question": ASKED}
    write_lines(folder / "data" / "image_data.jsonl", [picture])
    fixture.left = {"image_data.jsonl": ".json files are read"}
    begun = [f"{CONTEXT} {text}" for text in ENDS]
    fixture.rows = {
        f"{file}-0": Expected(user(ASKED), *begun, [jpeg(7)], untrained=len(CONTEXT)),
        f"{file}-1": Expected(user(ASKED), *ENDS, [jpeg(8)]),
    }
    return fixture, picture


def sentinel(folder: Path) -> Fixture:
    """psp-dada/SENTINEL for LLaVA-1.5: the pairs of each picture under its number in Visual Genome."""
    name = "LLaVA_v1_5_7b_SENTINEL_8_6k"
    fixture, _ = _sentinel(folder, name)
    pair = {"question": ASKED, "context": CONTEXT, "y_win": ENDS[0], "y_lose": ENDS[1], "type": "y+"}
    pairs = {
        "7": [pair],
        "8": [{**pair, "context": ""}, {**pair, "y_lose": None}, {**pair, "y_lose": " "}, "no pair"],
        "9": [pair],
        "10": "no list",
    }
    fixture.bad = {
        f"{name}-2": "y_lose is null",
        f"{name}-3": "y_lose is empty",
        f"{name}-4": "not a JSON object",
        f"{name}-5": "image file not found",
        f"{name}-6": "is not a list of rows",
    }
    (folder / "data" / f"{name}.json").write_text(json.dumps(pairs, indent=4))
    return fixture


def sentinel_alpaca(folder: Path) -> Fixture:
    """psp-dada/SENTINEL for other models: LLaMA-Factory's alpaca form, with the context of the answers."""
    name = "Qwen2_VL_7B_Instruct_SENTINEL_7k"
    fixture, picture = _sentinel(folder, name)
    row = {"instruction": f"<image>{ASKED}", "context": CONTEXT, "chosen": ENDS[0], "rejected": ENDS[1]}
    other = {**row, "context": "", "images": ["/data/visual_genome/VG_100K_2/8.jpg"]}
    rows = [{**row, "images": [picture["image_path"]]}, other, {**other, "chosen": ""}]
    rows.append({**other, "context": ["The street is busy."]})
    fixture.bad = {f"{name}-2": "chosen is empty", f"{name}-3": "context is not a text but list"}
    (folder / "data" / f"{name}.json").write_text(json.dumps(rows, ensure_ascii=False, indent=4))
    return fixture


def sentinel_lines(folder: Path) -> Fixture:
    """What SENTINEL's own code writes: a line for each pair."""
    name = "LLaVA_v1_5_7b_data_pair"
    fixture, picture = _sentinel(folder, name)
    row = {**picture, "context": CONTEXT, "y_win": ENDS[0], "y_lose": ENDS[1]}
    write_lines(
        folder / "data" / f"{name}.jsonl",
        [row, {**row, "context": "", "image_path": "VG_100K_2/8.jpg"}, {**row, "y_win": None}],
    )
    fixture.bad[f"{name}-2"] = "y_win is null"
    fixture.left = {"image_data.jsonl": "it has no column context, y_win, y_lose"}
    return fixture
