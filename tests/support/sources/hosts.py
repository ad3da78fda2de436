"""The layouts of the trainers' own documentation: LLaMA-Factory, TRL, Axolotl, ms-swift."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.sources.base import IMAGE, Expected, Fixture, answers, jpeg, png, user, write_lines


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
    fixture.left = {"data/test-00000-of-00001.parquet": "of split test"}
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


def axolotl_chat_template(folder: Path) -> Fixture:
    """Axolotl's `chat_template.default`, also LLaMA-Factory's `messages` form: an answer is one message."""
    fixture = Fixture("llamafactory", folder / "train.jsonl")
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "1.png").write_bytes(png(1))
    chosen, rejected = answers(1)
    part = [{"type": "image", "path": "photos/1.png"}, {"type": "text", "text": "What is it?"}]
    row = {"messages": [{"role": "system", "content": "Look."}, {"role": "user", "content": part}]}
    row["chosen"] = {"role": "assistant", "content": chosen}
    row["rejected"] = {"role": "assistant", "content": rejected}
    plain = {**row, "messages": [{"role": "user", "content": "What is it?"}], "images": ["photos/1.png"]}
    wrong = {**row, "chosen": {"role": "user", "content": chosen}}
    write_lines(fixture.path, [row, plain, wrong])
    system = {"role": "system", "content": "Look."}
    fixture.rows = {
        "train-0": Expected([system, *user("What is it?")], chosen, rejected, [png(1)]),
        "train-1": Expected(user("What is it?"), chosen, rejected, [png(1)]),
    }
    fixture.bad["train-2"] = "chosen is not exactly one assistant message"
    return fixture


def ms_swift(folder: Path) -> Fixture:
    """ms-swift: messages that end with the chosen answer; the rejected one in a column beside."""
    fixture = Fixture("ms-swift", folder / "swift.jsonl")
    folder.mkdir(parents=True)
    (folder / "cat.png").write_bytes(png(1))
    rows = []
    for index in range(4):
        chosen, rejected = answers(index)
        ask = {"role": "user", "content": "<image>What is it?"}
        row = {"messages": [ask, {"role": "assistant", "content": chosen}], "images": ["cat.png"]}
        if index == 1:
            row["rejected_messages"] = [ask, {"role": "assistant", "content": rejected}]
            row["rejected_images"] = ["cat.png"]
        else:
            row["rejected_response"] = rejected
        rows.append(row)
        fixture.rows[f"swift-{index}"] = Expected(user("What is it?"), chosen, rejected, [png(1)])
    rows[2]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    fixture.rows["swift-2"].prompt.insert(0, {"role": "system", "content": "Be brief."})
    rows[3]["rejected_images"] = ["dog.png"]
    del fixture.rows["swift-3"]
    rows.append({**rows[0], "videos": ["clip.mp4"]})
    rows.append({**rows[0], "messages": rows[0]["messages"][:1]})
    fixture.bad = {
        "swift-3": "rejected_images are others",
        "swift-4": "the row has a video",
        "swift-5": "does not end with an answer",
    }
    write_lines(fixture.path, rows)
    return fixture


def ms_swift_query(folder: Path) -> Fixture:
    """ms-swift's older form: query, response, rejected_response, history, system."""
    fixture = Fixture("ms-swift", folder / "rows.json")
    folder.mkdir(parents=True)
    chosen, rejected = answers(0)
    data = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    row = {"query": "And now?", "response": chosen, "rejected_response": rejected, "images": [data]}
    row |= {"history": [["Hello?", "Hi."]], "system": "Look."}
    fixture.path.write_text(json.dumps([row, {**row, "response": ""}]))
    prompt = [
        {"role": "system", "content": "Look."},
        *user("Hello?"),
        {"role": "assistant", "content": "Hi."},
    ]
    fixture.rows["rows-0"] = Expected([*prompt, *user("And now?")], chosen, rejected, [png(2)])
    fixture.bad["rows-1"] = "response is empty"
    return fixture


def json_columns(folder: Path) -> Fixture:
    """Parquet of the datasets library with its `Json` type, and a text column of messages."""
    fixture = Fixture("trl", folder)
    chosen, rejected = answers(2)

    def said(role: str, text: str) -> str:
        return json.dumps([{"role": role, "content": text}])

    rows = [
        {
            "prompt": said("user", "Which?"),
            "chosen": said("assistant", chosen),
            "rejected": said("assistant", rejected),
            "images": [{"bytes": jpeg(1), "path": None}],
        }
    ]
    rows.append({**rows[0], "prompt": "[{'role': 'user', 'content': 'Printed by Python'}]"})
    rows.append({**rows[0], "rejected": "{cut"})
    features = {name: {"_type": "Json"} for name in ("chosen", "rejected")}
    schema = pa.schema(
        [(name, pa.string()) for name in ("prompt", "chosen", "rejected")],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    schema = schema.append(pa.field("images", pa.list_(IMAGE)))
    (folder / "data").mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema), folder / "data" / "train-00000-of-00001.parquet"
    )
    fixture.rows["data/train-00000-of-00001-0"] = Expected(user("Which?"), chosen, rejected, [jpeg(1)])
    fixture.bad = {
        "data/train-00000-of-00001-1": "as Python prints them",
        "data/train-00000-of-00001-2": "is not JSON",
    }
    return fixture


def whole_conversations(folder: Path) -> Fixture:
    """Whole conversations in chosen and rejected, the prompt repeated beside; pictures in messages."""
    fixture = Fixture("trl", folder / "pairs.jsonl")
    folder.mkdir(parents=True)
    (folder / "p.png").write_bytes(png(3))
    chosen, rejected = answers(1)
    uri = "data:image/png;base64," + base64.b64encode(png(4)).decode()
    rows = []
    for part in ({"type": "image", "image": "p.png"}, {"type": "image_url", "image_url": {"url": uri}}):
        ask = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
        row = {"prompt": "What?"} if "image" in part else {}
        row["chosen"] = [ask, {"role": "assistant", "content": [{"type": "text", "text": chosen}]}]
        row["rejected"] = [ask, {"role": "assistant", "content": rejected}]
        rows.append(row)
    rows[0]["prompt"] = "<image>What?"
    web = {"role": "user", "content": [{"type": "image", "url": "https://example.org/a.png"}]}
    rows.append({**rows[0], "chosen": [web, rows[0]["chosen"][1]], "rejected": [web, rows[0]["rejected"][1]]})
    rows.append({**rows[0], "prompt": "Something else?"})
    write_lines(fixture.path, rows)
    fixture.rows = {
        "pairs-0": Expected(user("What?"), chosen, rejected, [png(3)]),
        "pairs-1": Expected(user("What?"), chosen, rejected, [png(4)]),
    }
    fixture.bad = {"pairs-2": "web address, which is not fetched", "pairs-3": "the prompt is not the one"}
    return fixture


def saved_to_disk(folder: Path) -> Fixture:
    """The folder that `Dataset.save_to_disk` writes: arrow files named by `state.json`, and stale ones."""
    fixture = Fixture("trl", folder)
    folder.mkdir(parents=True)
    schema = pa.schema([(name, pa.string()) for name in ("prompt", "chosen", "rejected")])
    schema = schema.append(pa.field("image", IMAGE))
    for part in range(2):
        chosen, rejected = answers(part)
        picture = {"bytes": jpeg(part), "path": "a.jpg"}
        row = {"prompt": f"Part {part}?", "chosen": chosen, "rejected": rejected, "image": picture}
        name = f"data-{part:05}-of-00002"
        _write_arrow(
            folder / f"{name}.arrow", pa.Table.from_pylist([row, {**row, "chosen": None}], schema=schema)
        )
        fixture.rows[f"{name}-0"] = Expected(user(f"Part {part}?"), chosen, rejected, [jpeg(part)])
        fixture.bad[f"{name}-1"] = "chosen is null"
    _write_arrow(folder / "data-00000-of-00001.arrow", pa.Table.from_pylist([row], schema=schema))
    _write_arrow(folder / "cache-0123456789abcdef.arrow", pa.Table.from_pylist([row], schema=schema))
    files = [{"filename": f"data-{part:05}-of-00002.arrow"} for part in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    stale = ("data-00000-of-00001.arrow", "cache-0123456789abcdef.arrow")
    fixture.left = dict.fromkeys(stale, "not named by the state.json")
    return fixture


def _write_arrow(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
