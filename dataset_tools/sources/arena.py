"""Battles of two models that a user judged: WildVision's arena, and others in its layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from dataset_tools.errors import BadRow, SkippedPair
from dataset_tools.sources.base import ImageValue, Pair, Source, identifier, images_of, split_answer, turns

_WINNERS = {"model_a": 0, "a": 0, "left": 0, "model_b": 1, "b": 1, "right": 1}


class Arena(Source):
    name = "arena"
    about = "battles of two models: WildVision/wildvision-internal-data (--config battle --split test)"
    columns = ("conversation_a", "conversation_b", "winner")

    def pairs(self, row: Mapping[str, Any]) -> Iterator[Pair | SkippedPair]:
        winner = str(row["winner"] or "").strip().lower()
        if winner.startswith(("tie", "bothbad", "both")):
            yield SkippedPair("tie")
            return
        if winner not in _WINNERS:
            raise BadRow(f"winner is neither model_a nor model_b nor a tie: {row['winner']!r}")
        held: list[ImageValue] = []
        sides = [
            split_answer(turns(row["conversation_a"], None, held)),
            split_answer(turns(row["conversation_b"])),
        ]
        if sides[0][0] != sides[1][0]:
            yield SkippedPair("the two conversations differ before their last answer")
            return
        best = _WINNERS[winner]
        yield Pair(
            id=next(
                (name for key in ("id", "question_id", "battle_id") if (name := identifier(row, key))), ""
            ),
            images=images_of(row, self.image_columns, held),
            prompt=sides[0][0],
            chosen=sides[best][1],
            rejected=sides[1 - best][1],
        )
