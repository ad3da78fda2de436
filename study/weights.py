"""What the weights of chosen answers are before training, and how well they tell true from false."""

from __future__ import annotations

import math
from typing import Any

import torch

from aspo_plugin.method.sentence_sums import sentence_sums
from aspo_plugin.method.weights import fused_weights

from .answers import Answerer
from .measure import auc
from .pairs import Pairs, World
from .sentences import HABIT, sentences_and_facts

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def chosen_weights(
    world: World, pairs: Pairs, alphas: tuple[float, ...], rows: list[int] | None = None
) -> dict[float, list[list[float]]]:
    """The fused weight of each sentence of the chosen answers of `rows` (all of them), by alpha."""
    answerer = Answerer(world.model, world.tokenizer)
    rows = list(range(len(pairs))) if rows is None else rows
    found: dict[float, list[list[float]]] = {alpha: [] for alpha in alphas}
    for start in range(0, len(rows), 128):
        part = rows[start : start + 128]
        tokens = answerer.pad([pairs.tokens["chosen"][i] for i in part])
        logps = answerer.logps(pairs.seen[part], tokens)
        ids = _padded([pairs.ids["chosen"][i] for i in part], tokens.size(1), -1)
        many = [len(pairs.similarity["chosen"][i]) for i in part]
        similarity = _padded([pairs.similarity["chosen"][i] for i in part], max(many), math.nan)
        counts = sentence_sums(torch.ones_like(logps), ids, max(many))
        nll = -sentence_sums(logps, ids, max(many)) / counts.clamp(min=1)
        for alpha in alphas:
            weights = fused_weights(similarity, nll, counts > 0, alpha)[0]
            found[alpha] += [row[:n].tolist() for row, n in zip(weights, many, strict=True)]
    return found


def told(world: World, pairs: Pairs) -> dict[str, Any]:
    """Of each alpha: in what share of cases a true sentence outweighs a false one of its answer (`auc`), the
    correlation of weight and truth over all sentences, and the mean weight of the habit where it is false."""
    truth = pairs.truth["chosen"]
    facts = [[fact for _, fact in sentences_and_facts(text)] for text in pairs.texts["chosen"]]
    flat_truth = torch.tensor([float(t) for row in truth for t in row])
    wrong_habit = torch.tensor(
        [
            fact == HABIT and not true
            for row, known in zip(facts, truth, strict=True)
            for fact, true in zip(row, known, strict=True)
        ]
    )
    found = {}
    for alpha, weights in chosen_weights(world, pairs, ALPHAS).items():
        flat = torch.tensor([weight for row in weights for weight in row])
        correlation = torch.corrcoef(torch.stack([flat, flat_truth]))[0, 1]
        found[f"{alpha:g}"] = {
            "auc": auc(weights, truth),
            "correlation": float(correlation),
            "false_habit": float(flat[wrong_habit].mean()) if wrong_habit.any() else None,
        }
    return found


def _padded(rows: list[Any], width: int, value: float) -> torch.Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
