"""What an answerer says of scenes it has not seen: false sentences by kind, coverage, length, entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .answers import Answerer
from .scenes import Scene
from .sentences import HABIT, SLOTS, mentioned, parse, true_facts

TEMPERATURES = (1.0, 0.85, 0.7, 0.5)


def measure(
    model: Any,
    tokenizer: Any,
    seen: Tensor,
    scenes: list[Scene],
    seed: int,
    temperatures: Sequence[float] = (*TEMPERATURES, 0.0),
) -> dict[str, dict[str, Any]]:
    """Measures at each of `temperatures`; 0 is greedy."""
    answerer = Answerer(model, tokenizer)
    found = {}
    for temperature in temperatures:
        rows, entropy = answerer.sample(seen, temperature, torch.Generator().manual_seed(seed))
        texts = [answerer.text(row) for row in rows]
        here = {"entropy": entropy, **told(texts, scenes)}
        if temperature != 1:
            del here["each"]
        found[f"{temperature:g}"] = here
    return found


def told(texts: list[str], scenes: list[Scene]) -> dict[str, Any]:
    """Of all answers together. `chair`: the share of mentioned objects that are not there; `coverage`: of the
    objects there that are mentioned; `distinct_false`: a sentence said twice in an answer counts once;
    `each`: false and all sentences of each answer."""
    total = false = objects = absent = repeated_false = distinct = 0
    coverage: list[float] = []
    each: list[list[int]] = []
    habit: list[bool] = []
    kinds = {kind: [0, 0] for kind in (*SLOTS, "other")}
    for text, things in zip(texts, scenes, strict=True):
        true, there = true_facts(things), {(thing.colour, thing.shape) for thing in things}
        facts = parse(text)
        said = set()
        each.append([sum(fact not in true for fact in facts), len(facts)])
        for fact in facts:
            wrong = fact not in true
            total, false = total + 1, false + wrong
            kind = kinds["other" if fact is None else fact[0]]
            kind[0], kind[1] = kind[0] + 1, kind[1] + wrong
            for thing in mentioned(fact) if fact is not None else ():
                objects, absent = objects + 1, absent + (thing not in there)
                said.add(thing)
        once = set(facts)
        distinct, repeated_false = distinct + len(once), repeated_false + sum(f not in true for f in once)
        coverage.append(len(said & there) / len(there))
        habit.append(HABIT in facts and HABIT not in true)
    return {
        "false": false / max(total, 1),
        "distinct_false": repeated_false / max(distinct, 1),
        "chair": absent / max(objects, 1),
        "coverage": float(np.mean(coverage)),
        "sentences": total / len(texts),
        "habit": float(np.mean(habit)),
        "each": each,
        "kinds": {kind: {"said": said, "false": wrong} for kind, (said, wrong) in kinds.items() if said},
    }


def auc(scores: list[list[float]], truth: list[list[bool]]) -> float:
    """Share of pairs of a true and a false sentence of one response that the scores order rightly."""
    good = pairs = 0.0
    for row, true in zip(scores, truth, strict=True):
        for a, b in ((x, y) for x, t in zip(row, true, strict=True) if t
                     for y, u in zip(row, true, strict=True) if not u):  # fmt: skip
            pairs, good = pairs + 1, good + (a > b) + 0.5 * (a == b)
    return good / max(pairs, 1.0)
