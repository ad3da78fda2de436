"""Pairs from several rated completions of one prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources.base import ImageValue, Pair, Source, identifier, image_list, text


def pair_indices(
    scores: list[float | None], pairs: str, min_margin: float
) -> Iterator[tuple[int, int] | str]:
    """Which completions to pair, as (better, worse), or the reason why a combination is left out.

    `pairs` "all" is Silkie's recipe: every combination of two, by score, without ties. "best-worst" keeps the
    combination with the widest gap. A score of None is a completion that has no usable rating.
    """
    if pairs == "best-worst":
        known = [index for index, score in enumerate(scores) if score is not None]
        if len(known) < 2:
            yield "fewer than two completions with a rating"
            return
        best = max(known, key=lambda index: (scores[index], -index))
        worst = min(known, key=lambda index: (scores[index], index))
        combinations = [(best, worst)]
    else:
        combinations = [(a, b) for a in range(len(scores)) for b in range(a + 1, len(scores))]
    for a, b in combinations:
        first, second = scores[a], scores[b]
        if first is None or second is None:
            yield "a rating is not a number"
        elif first == second:
            yield "tie"
        elif abs(first - second) < min_margin:
            yield "margin below --min-margin"
        else:
            yield (a, b) if first > second else (b, a)


class Rated(Source):
    """Rows of a prompt with several completions, each rated: VLFeedback and its like."""

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair | SkippedPair]:
        prompt = text(row, "prompt")
        images = self.pictures(row)
        answers = completions(row["completions"])
        if len(answers) < 2:
            raise BadRow(f"{len(answers)} completions, at least two are needed")
        scores = [self.score(answer) for answer in answers]
        name = identifier(row, "id")
        for choice in pair_indices(scores, self.options.pairs, self.options.min_margin):
            if isinstance(choice, str):
                yield SkippedPair(choice)
                continue
            best, worst = choice
            yield Pair(
                id=f"{name}-{best}-{worst}" if name else "",
                images=images,
                prompt=prompt,
                chosen=answers[best].get("response"),
                rejected=answers[worst].get("response"),
            )

    @staticmethod
    def score(answer: Mapping[str, Any]) -> float | None:
        """How good a completion is; None where that is not known."""
        raise NotImplementedError

    def pictures(self, row: Mapping[str, Any]) -> list[ImageValue]:
        """The row's images."""
        return image_list(row["image"])


def completions(value: Any) -> list[Mapping[str, Any]]:
    """The completions as a list of objects, from a list of structs or a struct of lists."""
    if isinstance(value, Mapping):
        lengths = {len(items) for items in value.values() if isinstance(items, list)}
        if len(lengths) != 1 or not all(isinstance(items, list) for items in value.values()):
            raise BadRow("completions is an object whose lists differ in length")
        return [{key: items[index] for key, items in value.items()} for index in range(lengths.pop())]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise BadRow("completions is null" if value is None else "completions is not a list of objects")
    return value
