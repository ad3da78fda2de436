"""Small preference data drawn and written by the project: shapes, and sentences that do or do not fit.

A row is a dictionary in the layout of `dataset_tools.dataset.schema`. The writers put the same rows into the
layouts of other projects. Everything follows from the seed.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

COLOURS = {
    "red": (214, 40, 40),
    "green": (56, 142, 60),
    "blue": (33, 90, 200),
    "yellow": (250, 200, 30),
    "purple": (123, 31, 162),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle")
PLACES = {"left": 0.27, "middle": 0.5, "right": 0.73}
QUESTIONS = (
    "What is in this picture?",
    "Describe the image in detail.",
    "Which shapes do you see, and where?",
)


def rows(
    n: int,
    seed: int = 0,
    *,
    sentences: int | tuple[int, int] = (2, 4),
    images_per_prompt: int = 1,
    text_only: bool = False,
    similarity: bool = True,
    size: tuple[int, int] = (72, 56),
) -> list[dict[str, Any]]:
    """`n` preference rows in the layout of `dataset_tools.dataset.schema`.

    `sentences` is a number or a range (both ends included) per response. Every second image is a JPEG, the
    others are PNG; `size` is in pixels. `similarity` fills the similarity columns (None otherwise).
    """
    least, most = (sentences, sentences) if isinstance(sentences, int) else sentences
    generator = random.Random(seed)
    made = []
    for index in range(n):
        scenes = [_scene(generator) for _ in range(images_per_prompt)]
        chosen = _sentences(generator, scenes, generator.randint(least, most), false_share=0.1)
        rejected = _sentences(generator, scenes, generator.randint(least, most), false_share=0.9)
        if chosen == rejected:
            rejected[0] = (f"There is nothing here, number {index}.", False)
        images = [] if text_only else [
            _image(scene, size, "JPEG" if (index + place) % 2 == 0 else "PNG", f"{seed}-{index}-{place}")
            for place, scene in enumerate(scenes)
        ]  # fmt: skip
        row: dict[str, Any] = {
            "id": f"drawn-{seed}-{index}",
            "source": "drawn",
            "images": images,
            "prompt": [{"role": "user", "content": generator.choice(QUESTIONS)}],
        }
        for name, told in (("chosen", chosen), ("rejected", rejected)):
            text, spans = _join([sentence for sentence, _ in told])
            row[name] = [{"role": "assistant", "content": text}]
            row[f"{name}_sentences"] = spans
            row[f"{name}_similarity"] = None
            if similarity and not text_only:
                row[f"{name}_similarity"] = [
                    round((0.3 if true else 0.15) + generator.uniform(-0.05, 0.05), 4) for _, true in told
                ]
        made.append(row)
    return made


CONTEXTS = ("Two shapes lie on a table. ", "Look closely, in the middle:", "红色的形状。", "A qu")


def with_context(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with an untrained prefix in both answers, one of `CONTEXTS` in turn and none in each fifth."""
    made = []
    for row, context in zip(rows, cycle((*CONTEXTS, "")), strict=False):
        joined = context if context[-1:] in ("", " ", "u") else f"{context} "
        moved = {"untrained_prefix": len(context.rstrip())}
        for name in ("chosen", "rejected"):
            moved[name] = [{**row[name][0], "content": joined + row[name][0]["content"]}]
            spans = row[f"{name}_sentences"]
            moved[f"{name}_sentences"] = [
                {"start": span["start"] + len(joined), "end": span["end"] + len(joined)} for span in spans
            ]
        made.append({**row, **moved})
    return made


def _scene(generator: random.Random) -> dict[str, tuple[str, str]]:
    """Place -> (colour, shape), for one to three places."""
    places = generator.sample(list(PLACES), generator.randint(1, 3))
    return {place: (generator.choice(list(COLOURS)), generator.choice(SHAPES)) for place in places}


def _sentences(
    generator: random.Random, scenes: list[dict[str, tuple[str, str]]], count: int, false_share: float
) -> list[tuple[str, bool]]:
    """`count` sentences, each with whether it is true of the scenes."""
    told = []
    for _ in range(count):
        scene = generator.choice(scenes)
        place, (colour, shape) = generator.choice(list(scene.items()))
        true = generator.random() >= false_share
        if not true:
            colour = generator.choice([other for other in COLOURS if other != colour])
        told.append((generator.choice(SAYINGS).format(colour=colour, shape=shape, place=place), true))
    return told


SAYINGS = (
    "A {colour} {shape} is on the {place}.",
    "On the {place} there is a {shape}, and it is {colour}!",
    "I see a {colour} {shape}.",
    "The {shape} on the {place}, it's {colour}, isn't it?",
)


def _join(sentences: Sequence[str]) -> tuple[str, list[dict[str, int]]]:
    spans, start = [], 0
    for sentence in sentences:
        spans.append({"start": start, "end": start + len(sentence)})
        start += len(sentence) + 1
    return " ".join(sentences), spans


def _image(scene: dict[str, tuple[str, str]], size: tuple[int, int], kind: str, name: str) -> dict[str, Any]:
    from PIL import Image, ImageDraw

    width, height = size
    picture = Image.new("RGB", size, (245, 245, 240))
    draw = ImageDraw.Draw(picture)
    radius = min(width, height) * 0.2
    for place, (colour, shape) in scene.items():
        x, y = PLACES[place] * width, height / 2
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        elif shape == "square":
            draw.rectangle(box, fill=COLOURS[colour])
        else:
            draw.polygon([(x, box[1]), (box[0], box[3]), (box[2], box[3])], fill=COLOURS[colour])
    stream = io.BytesIO()
    picture.save(stream, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return {"bytes": stream.getvalue(), "path": f"{name}.{'jpg' if kind == 'JPEG' else 'png'}"}


def _text(row: dict[str, Any], name: str) -> str:
    return row[name][-1]["content"]


def write_converted(
    folder: Path | str, data: list[dict[str, Any]], shard: str = "train-00000.parquet"
) -> Path:
    """The rows as a folder that `aspo-data convert` could have written (parquet only); returns the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dataset_tools.dataset import schema

    path = Path(folder) / "data" / shard
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(data, schema=schema.arrow_schema()), path)
    return Path(folder)


def write_rlaif_v_parquet(folder: Path | str, data: list[dict[str, Any]]) -> Path:
    """RLAIF-V's own layout, one image a row; returns the parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {
        "ds_name": ["RLAIF-V"] * len(data),
        "image": [row["images"][0] for row in data],
        "question": [_text(row, "prompt") for row in data],
        "chosen": [_text(row, "chosen") for row in data],
        "rejected": [_text(row, "rejected") for row in data],
        "origin_dataset": ["drawn"] * len(data),
        "origin_split": [json.dumps({"model": "drawn", "type": "detailed_description"})] * len(data),
        "idx": [str(index) for index in range(len(data))],
        "image_path": [row["images"][0]["path"] for row in data],
    }
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = Path(folder) / "RLAIF-V-Dataset_000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    types = [(name, image if name == "image" else pa.string()) for name in columns]
    pq.write_table(pa.table(columns, schema=pa.schema(types)), path)
    return path


def write_llamafactory(folder: Path | str, data: list[dict[str, Any]], name: str = "drawn") -> Path:
    """A ranking file in LLaMA-Factory's sharegpt layout with its `dataset_info.json`; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    roles = {"user": "human", "assistant": "gpt", "system": "system"}
    written = []
    for row in data:
        turns = [{"from": roles[turn["role"]], "value": turn["content"]} for turn in row["prompt"]]
        first = next(turn for turn in turns if turn["from"] == "human")
        if "<image>" not in first["value"]:
            first["value"] = "<image>" * len(row["images"]) + first["value"]
        written.append(
            {
                "conversations": turns,
                "chosen": {"from": "gpt", "value": _text(row, "chosen")},
                "rejected": {"from": "gpt", "value": _text(row, "rejected")},
                "images": _image_files(folder, row),
            }
        )
    (folder / f"{name}.json").write_text(json.dumps(written, indent=1))
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    if not any(row["images"] for row in data):
        del columns["images"]
    info = {
        name: {"file_name": f"{name}.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1))
    return folder


def _image_files(folder: Path, row: dict[str, Any]) -> list[str]:
    paths = []
    for image in row["images"]:
        path = folder / "images" / image["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image["bytes"])
        paths.append(str(path))
    return paths


def write_trl(folder: Path | str, data: list[dict[str, Any]]) -> Path:
    """TRL's vision-preference layout (typed content parts) as parquet; returns the folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def parts(turns: list[dict[str, str]], images: int = 0) -> list[dict[str, Any]]:
        made = []
        for turn in turns:
            marks = [{"type": "image", "text": None}] * (images if turn["role"] == "user" else 0)
            made.append(
                {"role": turn["role"], "content": [*marks, {"type": "text", "text": turn["content"]}]}
            )
            images = 0 if turn["role"] == "user" else images
        return made

    part = pa.struct([("type", pa.string()), ("text", pa.string())])
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(part))]))
    image = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    value = {"dtype": "string", "_type": "Value"}
    feature = [{"role": value, "content": [{"type": value, "text": value}]}]
    features = {"images": [{"_type": "Image"}], "prompt": feature, "chosen": feature, "rejected": feature}
    kinds = [("images", image), ("prompt", messages), ("chosen", messages), ("rejected", messages)]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.Table.from_pylist(
        [
            {
                "images": row["images"],
                "prompt": parts(row["prompt"], len(row["images"])),
                "chosen": parts(row["chosen"]),
                "rejected": parts(row["rejected"]),
            }
            for row in data
        ],
        schema=pa.schema(kinds, metadata=metadata),
    )
    path = Path(folder) / "train-00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return Path(folder)
