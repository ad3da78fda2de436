"""Pictures of coloured shapes, and preference pairs about them whose chosen answers are partly false."""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 40, 40),
    "blue": (40, 80, 214),
    "green": (40, 160, 70),
    "yellow": (240, 200, 40),
    "purple": (140, 60, 170),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle")
SIZE = 56


@dataclass(frozen=True)
class Scene:
    """Three shapes in a row, left to right, as (colour, shape)."""

    things: tuple[tuple[str, str], ...]

    def draw(self, rng: random.Random) -> bytes:
        """A JPEG of the scene; position and size vary with `rng`."""
        picture = Image.new("RGB", (SIZE, SIZE), (250, 250, 245))
        pen = ImageDraw.Draw(picture)
        for column, (colour, shape) in enumerate(self.things):
            x, y, r = 10 + 18 * column, rng.randint(16, SIZE - 16), rng.randint(6, 8)
            box, fill = (x - r, y - r, x + r, y + r), COLOURS[colour]
            if shape == "circle":
                pen.ellipse(box, fill=fill)
            elif shape == "square":
                pen.rectangle(box, fill=fill)
            else:
                pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=92)
        return data.getvalue()

    def true_sentence(self, rng: random.Random) -> str:
        colour, shape = rng.choice(self.things)
        return sentence(colour, shape, rng)

    def false_sentence(self, rng: random.Random) -> str:
        """A sentence about a colour that does not occur in the scene."""
        absent = [colour for colour in COLOURS if colour not in {seen for seen, _ in self.things}]
        return sentence(rng.choice(absent), rng.choice(SHAPES), rng)


def sentence(colour: str, shape: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f"There is a {colour} {shape} in the picture.",
            f"I can see a {colour} {shape}.",
            f"One of the shapes is a {colour} {shape}.",
        )
    )


def scene(rng: random.Random) -> Scene:
    return Scene(tuple((rng.choice(list(COLOURS)), rng.choice(SHAPES)) for _ in range(3)))


def write_rlaif_v(folder: Path, rows: int, seed: int) -> set[str]:
    """Write a parquet file in RLAIF-V's own layout; return the false sentences of the chosen answers,
    each prefixed with its row's id.

    A chosen answer has two or three true sentences and one false one; a rejected answer is all false.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(seed)
    records, false = [], set()
    for number in range(rows):
        what = scene(rng)
        wrong = what.false_sentence(rng)
        chosen = list(dict.fromkeys(what.true_sentence(rng) for _ in range(3))) + [wrong]
        rng.shuffle(chosen)
        false.add(f"{number}:{wrong}")
        records.append(
            {
                "ds_name": "demo",
                "image": {"bytes": what.draw(rng), "path": f"{number}.jpg"},
                "question": "What shapes are in this picture?",
                "chosen": " ".join(chosen),
                "rejected": " ".join(what.false_sentence(rng) for _ in range(3)),
                "origin_dataset": "drawn",
                "origin_split": json.dumps({"model": "demo", "type": "shapes"}),
                "idx": str(number),
                "image_path": f"{number}.jpg",
            }
        )
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), folder / "demo_000.parquet")
    return false
