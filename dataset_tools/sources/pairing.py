"""Pairs from several rated completions of one prompt."""

from __future__ import annotations

from collections.abc import Iterator


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
