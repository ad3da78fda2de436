"""Drawn scenes: three to six coloured shapes on a grid of 4 by 4 cells."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

GRID, CELL = 4, 12
SIZE = GRID * CELL
COLOURS = {
    "red": (200, 60, 50),
    "orange": (210, 110, 50),
    "green": (70, 160, 80),
    "cyan": (60, 160, 150),
    "blue": (70, 90, 190),
    "purple": (130, 70, 180),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("large", "small")
BACKGROUND = 0.55
PIXEL_NOISE = 0.06


@dataclass(frozen=True)
class Thing:
    """One shape in one cell."""

    row: int
    column: int
    size: str
    colour: str
    shape: str

    @property
    def quarter(self) -> str:
        """`top left`, `top right`, `bottom left` or `bottom right`."""
        vertical = "top" if self.row < GRID // 2 else "bottom"
        return f"{vertical} {'left' if self.column < GRID // 2 else 'right'}"


Scene = tuple[Thing, ...]


def scene(rng: random.Random) -> Scene:
    """A new scene; shapes repeat, so that counting matters."""
    cells = sorted(rng.sample(range(GRID * GRID), rng.randint(3, 6)))
    few = rng.sample(SHAPES, rng.randint(2, 3))
    return tuple(
        Thing(cell // GRID, cell % GRID, rng.choice(SIZES), rng.choice(list(COLOURS)), rng.choice(few))
        for cell in cells
    )


def draw(things: Scene, rng: np.random.Generator, noise: float = PIXEL_NOISE) -> np.ndarray:
    """`[SIZE, SIZE, 3]` bytes; place and size in the cell vary, and every pixel has noise (of 1)."""
    picture = np.full((SIZE, SIZE, 3), BACKGROUND)
    for thing in things:
        radius = 5.3 if thing.size == "large" else 3.8
        room = max(6 - radius, 0.3)
        y, x = 5.5 + rng.uniform(-room, room), 5.5 + rng.uniform(-room, room)
        inside = _inside(thing.shape, radius + rng.uniform(-0.3, 0.3), y, x)
        top, left = thing.row * CELL, thing.column * CELL
        picture[top : top + CELL, left : left + CELL][inside] = np.array(COLOURS[thing.colour]) / 255
    picture += rng.normal(0, noise, picture.shape)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8)


def _inside(shape: str, radius: float, y: float, x: float) -> np.ndarray:
    rows, columns = np.mgrid[0:CELL, 0:CELL]
    down, across = rows - y, columns - x
    square = down**2 + across**2
    if shape == "circle":
        return square <= radius**2
    if shape == "ring":
        return (square <= radius**2) & (square >= (radius * 0.5) ** 2)
    if shape == "square":
        return (abs(down) <= radius * 0.9) & (abs(across) <= radius * 0.9)
    if shape == "cross":
        thin, long = radius * 0.35, radius
        return ((abs(across) <= thin) & (abs(down) <= long)) | ((abs(down) <= thin) & (abs(across) <= long))
    return (down <= radius * 0.9) & (down >= -radius + 2 * abs(across))
