"""What a model is asked and what it says, whether it runs here or behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dataset_tools.errors import BadRow

if TYPE_CHECKING:
    from PIL.Image import Image


class Answer(NamedTuple):
    """A text, and whether it was cut off at the largest number of tokens."""

    text: str
    cut: bool


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
