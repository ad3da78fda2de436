"""Two recipes of pairs: the answer to the clean picture against the distorted one's; best against worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.generate.answers import Answer, Answerer, Sampling, seed_of
from dataset_tools.generate.distortions import Distortion, distorted
from dataset_tools.sentences import split_sentences

if TYPE_CHECKING:
    from PIL.Image import Image

    from dataset_tools.scoring.scorer import SentenceScorer

IDENTICAL = "identical answers"
EMPTY = "an answer is empty"
UNFINISHED = "an answer is an unfinished thought"
NO_SCORE = "fewer than two samples could be scored"


@dataclass(frozen=True)
class Question:
    """A row whose picture is loaded: RGB and upright. `seed` is the row's own."""

    text: str
    picture: Image
    seed: int


@dataclass(frozen=True)
class Answers:
    """A pair; `cut` of its two answers ended at the largest number of tokens, `thoughts` had thoughts."""

    chosen: str
    rejected: str
    cut: int
    thoughts: int = 0


Outcome: TypeAlias = "Answers | SkippedPair | BadRow"


class CleanAgainstDistorted:
    """SeVa: the model's answer to the picture is chosen, its answer to the distorted picture rejected."""

    def __init__(
        self, answerer: Answerer, sampling: Sampling, distortion: Distortion, noise_step: int
    ) -> None:
        self._answerer, self._sampling = answerer, sampling
        self._distortion, self._noise_step = distortion, noise_step

    def __call__(self, batch: Sequence[Question]) -> list[Outcome]:
        """One outcome for each question, in order."""
        chosen = self._answer(batch, [question.picture for question in batch], "clean")
        if self._distortion is Distortion.NOISE:
            pictures, step = [question.picture for question in batch], self._noise_step
        else:
            pictures = [
                distorted(question.picture, self._distortion, seed_of(question.seed, "picture"))
                for question in batch
            ]
            step = None
        rejected = self._answer(batch, pictures, "distorted", step)
        return [_pair(*answers) for answers in zip(chosen, rejected, strict=True)]

    def _answer(
        self, batch: Sequence[Question], pictures: list[Any], part: str, noise_step: int | None = None
    ) -> list[list[Answer] | BadRow]:
        return self._answerer.answer(
            [question.text for question in batch],
            pictures,
            [seed_of(question.seed, part) for question in batch],
            self._sampling,
            noise_step,
        )


class BestAgainstWorst:
    """Of several samples the best against the worst, by their sentences' mean similarity with the picture.

    CSR ranks candidates by such a similarity and the model's own score; the similarity alone is used here.
    """

    def __init__(self, answerer: Answerer, sampling: Sampling, scorer: SentenceScorer) -> None:
        self._answerer, self._sampling, self._scorer = answerer, sampling, scorer

    def __call__(self, batch: Sequence[Question]) -> list[Outcome]:
        """One outcome for each question, in order."""
        found = self._answerer.answer(
            [question.text for question in batch],
            [question.picture for question in batch],
            [question.seed for question in batch],
            self._sampling,
        )
        rows = [
            ([question.picture], [sentence for answer in answers for sentence in _sentences(answer.text)])
            for question, answers in zip(batch, found, strict=True)
            if not isinstance(answers, BadRow)
        ]
        scored = self._scorer.score(rows)
        return [
            answers if isinstance(answers, BadRow) else _ranked(answers, next(scored)) for answers in found
        ]


def _ranked(answers: list[Answer], similarity: list[float | None]) -> Outcome:
    means: list[tuple[float, Answer]] = []
    start = 0
    for answer in answers:
        count = len(_sentences(answer.text))
        own = [value for value in similarity[start : start + count] if value is not None]
        start += count
        if own:
            means.append((sum(own) / len(own), answer))
    if len(means) < 2:
        return SkippedPair(UNFINISHED if any(answer.unfinished for answer in answers) else NO_SCORE)
    best, worst = max(means, key=lambda item: item[0]), min(means, key=lambda item: item[0])
    return _pair([best[1]], [worst[1]])


def _sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def _pair(chosen: list[Answer] | BadRow, rejected: list[Answer] | BadRow) -> Outcome:
    if isinstance(chosen, BadRow):
        return chosen
    if isinstance(rejected, BadRow):
        return rejected
    better, worse = chosen[0], rejected[0]
    if better.unfinished or worse.unfinished:
        return SkippedPair(UNFINISHED)
    if not better.text or not worse.text:
        return SkippedPair(EMPTY)
    if better.text == worse.text:
        return SkippedPair(IDENTICAL)
    return Answers(better.text, worse.text, better.cut + worse.cut, better.thoughts + worse.thoughts)
