"""Small preference sets for the LLaMA-Factory tests: drawn pictures, texts with known sentences."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
SHAPES = ("circle", "square")


def picture(shape: str, colour: str, format: str = "PNG", size: int = 48) -> bytes:
    """An encoded picture of one shape on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), (255, 255, 255))
    box = (size // 6, size // 6, size - size // 6, size - size // 6)
    draw = ImageDraw.Draw(image)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, format=format)
    return buffer.getvalue()


def spans(sentences: list[str]) -> list[dict[str, int]]:
    """Offsets of `sentences` in their text, which is them joined by one space."""
    found, start = [], 0
    for sentence in sentences:
        found.append({"start": start, "end": start + len(sentence)})
        start += len(sentence) + 1
    return found


def row(
    index: int, chosen: list[str], rejected: list[str], images: list[bytes], similarity: Any = "random", **more: Any
) -> dict[str, Any]:
    """One row of the schema. `similarity`: a list, None (not scored), or "random"."""
    rng = random.Random(index)
    if similarity == "random":
        similarity = [rng.uniform(0.1, 0.4) for _ in chosen]
    return {
        "id": f"row-{index}",
        "source": "tests",
        "images": [{"bytes": image, "path": None} for image in images],
        "prompt": [{"role": "user", "content": "What is in the picture?"}],
        "chosen": [{"role": "assistant", "content": " ".join(chosen)}],
        "rejected": [{"role": "assistant", "content": " ".join(rejected)}],
        "chosen_sentences": spans(chosen),
        "rejected_sentences": spans(rejected),
        "chosen_similarity": similarity,
        "rejected_similarity": None if similarity is None else [0.2] * len(rejected),
        **more,
    }


def rows(count: int, sentences: int | None = None, seed: int = 0, format: str = "PNG") -> list[dict[str, Any]]:
    """`count` rows with pictures; `sentences` per chosen response, or 3 to 5."""
    rng = random.Random(seed)
    made = []
    for index in range(count):
        shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        other = rng.choice([name for name in COLOURS if name != colour])
        pool = [
            f"There is a {colour} {shape} in the picture.",
            "It lies on a white ground!",
            f"Its colour is {colour}, as anyone can see.",
            "Nothing else is shown?",
            f"The {shape} fills the middle.",
        ]
        wrong = [f"There is a {other} {shape}.", "Two dogs run around it.", "It rains."]
        number = sentences or rng.randint(3, 5)
        made.append(row(index, pool[:number], wrong[: rng.randint(1, 3)], [picture(shape, colour, format)]))
    return made


def write(folder: Path, sets: dict[str, list[dict[str, Any]]]) -> Path:
    """A `dataset_dir` with one converted dataset per entry, as `aspo-data` lays them out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dataset_tools.schema import arrow_schema

    info = {}
    for name, content in sets.items():
        file = folder / name / "train.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        schema = arrow_schema()
        pq.write_table(pa.Table.from_pylist([{key: line.get(key) for key in schema.names} for line in content], schema), file)
        info[name] = {"file_name": f"{name}/train.parquet", "formatting": "aspo", "ranking": True}
    path = folder / "dataset_info.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, **info}, indent=2))
    return folder
