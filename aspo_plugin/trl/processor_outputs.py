"""Which outputs of a processor belong to the tokens of a prompt, and which to its images: found by trying."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .rows import image_prompt

logger = logging.getLogger(__name__)

# Known to follow the tokens whatever their shape, also where a processor cannot be tried.
PER_TOKEN = frozenset(
    "input_ids attention_mask token_type_ids mm_token_type_ids cross_attention_mask".split()
)


@dataclass(frozen=True)
class ProcessorOutputs:
    """What was found out about a processor's outputs.

    `per_token`: have an entry for each token of the prompt, `[rows, length, ...]`. `by_row`: of the others,
    those with an entry for each row, also for a row without images. `repeats`: rows given twice have these
    outputs twice, so the chosen rows' may stand for the rejected rows'. `of_text`: zero at every token of a
    text without images, and yet given, for some models train on nothing else.
    """

    per_token: frozenset[str] = PER_TOKEN
    by_row: frozenset[str] = frozenset()
    repeats: bool = False
    of_text: frozenset[str] = frozenset()


def examine(processor: Any) -> ProcessorOutputs:
    """Try the processor on drawn images and texts of several lengths.

    What it does not take is not found out: then its outputs are used as they are, for all rows at once.
    """
    of_text = _of_text(processor)
    try:
        short, long = (_process(processor, [[0]], text) for text in ("a", "a longer text, with more tokens"))
        pair, again = _process(processor, [[0], [1]]), _process(processor, [[0], [1], [0], [1]])
    except Exception as error:
        # Whatever a processor of tomorrow raises: the way that asks nothing of it is left.
        logger.warning(
            "%s was not tried (%s: %s); its images are processed for every row",
            type(processor).__name__, type(error).__name__, error,
        )  # fmt: skip
        return ProcessorOutputs(of_text=of_text)
    per_token = frozenset(
        name for name in short if name in PER_TOKEN or all(_follows(out, name) for out in (short, long))
    )
    images = [name for name in pair if name not in per_token]
    return ProcessorOutputs(
        per_token,
        _by_row(processor, images),
        all(_same(_twice(pair[name]), again[name]) for name in images),
        of_text,
    )


def _of_text(processor: Any) -> frozenset[str]:
    try:
        tried = [
            processor(text=[image_prompt(processor, 0, text)], return_tensors="pt", add_special_tokens=False)
            for text in ("a", "a longer text, with more tokens")
        ]
    except Exception:
        # A processor that wants an image has nothing to say of a text without one.
        return frozenset()
    zeros = (name for name in tried[0] if all(_follows(out, name) and not out[name].any() for out in tried))
    return frozenset(zeros) - {"input_ids", "attention_mask"}


def _process(processor: Any, rows: Sequence[Sequence[int]], text: str = "a") -> dict[str, Any]:
    """Outputs for rows with these pictures each."""
    outputs = processor(
        images=[[_picture(number) for number in row] for row in rows],
        text=[image_prompt(processor, len(row), text) for row in rows],
        padding=True,
        return_tensors="pt",
        add_special_tokens=False,
    )
    return {name: value for name, value in outputs.items() if name != "labels"}


def _picture(number: int) -> Image.Image:
    """Each of another shape."""
    shape = (72, 96 + 24 * number, 3)
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8))


def _follows(outputs: Mapping[str, Any], name: str) -> bool:
    value = outputs.get(name)
    return isinstance(value, Tensor) and value.shape[:2] == outputs["input_ids"].shape


def _by_row(processor: Any, names: Sequence[str]) -> frozenset[str]:
    try:
        outputs = _process(processor, [[0], [1, 2]])
    except Exception:
        # One image a row: entries for rows and for images cannot be told apart, nor need they.
        return frozenset()
    return frozenset(
        name for name in names if isinstance(outputs.get(name), Tensor) and len(outputs[name]) == 2
    )


def _twice(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.cat([value, value]) if value.dim() else None
    return [*value, *value] if isinstance(value, list | tuple) else None


def _same(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor) and isinstance(other, Tensor):
        return bool(torch.equal(value, other))
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(_same, value, other))
    return bool(np.array_equal(value, other)) if type(value) is type(other) else False
