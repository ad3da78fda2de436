"""What a model is asked and what it says, whether it runs here or behind an endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dataset_tools.errors import BadRow

if TYPE_CHECKING:
    from PIL.Image import Image


# As Qwen, GLM and DeepSeek write them, and as Kimi does.
_OPENS, _CLOSES = ("<think>", "◁think▷"), ("</think>", "◁/think▷")
MARKS = _OPENS + _CLOSES
_WRAPPED = re.compile(r"<answer>(.*?)(</answer>)?", re.DOTALL)


class Answer(NamedTuple):
    """A text without the thoughts before it, and whether it was cut off at the largest number of tokens.

    `thoughts`: whether some were taken out; `unfinished`: the model was still thinking, and nothing is left.
    """

    text: str
    cut: bool
    thoughts: bool = False
    unfinished: bool = False


def answer_of(text: str, cut: bool, thinking: bool = False) -> Answer:
    """What a model wrote as its answer. `thinking`: the prompt itself ended in the opening mark."""
    text = text.strip()
    end = max((text.rfind(mark) + len(mark) for mark in _CLOSES if mark in text), default=0)
    rest = text[end:].strip()
    if any(mark in rest for mark in _OPENS) or (thinking and not end):
        return Answer("", cut, unfinished=True)
    if end and (wrapped := _WRAPPED.fullmatch(rest)):  # GLM-4.1V-Thinking
        rest = wrapped[1].strip()
    before = text[:end]
    for mark in MARKS:
        before = before.replace(mark, "")
    return Answer(rest, cut, thoughts=bool(before.strip()))


def opens_thoughts(prompt: str) -> bool:
    """Whether a prompt ends in the mark behind which a model thinks."""
    return prompt.rstrip().endswith(_OPENS)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. A temperature of 0 is greedy; `count` answers to each question."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    count: int = 1


class Answerer(Protocol):
    """A model that answers questions about pictures."""

    def identity(self) -> dict[str, Any]:
        """Which model it is, for the record."""
        ...

    def answer(
        self,
        questions: Sequence[str],
        pictures: Sequence[Image],
        seeds: Sequence[int],
        sampling: Sampling,
        noise_step: int | None = None,
    ) -> list[list[Answer] | BadRow]:
        """`sampling.count` answers to each question about its picture, or why there are none.

        `noise_step`: diffusion noise of that step on the pixel values, drawn by the seeds.
        """
        ...


def seed_of(*parts: object) -> int:
    """A number of 31 bits that depends on all parts: the same in every process and version of Python."""
    digest = blake2b(":".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
