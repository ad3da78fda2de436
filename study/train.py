"""Preference training in-process: the method's own `aspo_loss` over the small LLaVA, without a host.

Step by step its losses are those of LLaMA-Factory's run (`tests/study/test_host.py`). The vision tower is
frozen, and its features are kept.
"""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.method.loss import aspo_loss

from .answers import Answerer
from .pairs import Pairs, World


@dataclass(frozen=True)
class Method:
    """One row of the study. `signal`: what stands for the similarity, `clip`, `truth`, `random`, or `none`
    (which is DPO); for given weights `mask`, 1 for the true sentences of the chosen and the false ones of the
    rejected answer, else 0, and `pair`, see `pair_weights`."""

    name: str
    signal: str = "clip"
    alpha: float = 1.0
    normalization: str = "weight"
    weighting: str = "paper"
    scale: float = 2.0
    weight_rejected: bool = False
    source: str = ""  # of pairs of its own, see `runs.SOURCES`; else those of its setting


METHODS = {
    method.name: method
    for method in (
        Method("dpo", signal="none"),
        *(Method(f"aspo {alpha:g}", alpha=alpha) for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)),
        Method("true weights", signal="truth"),
        Method("random weights", signal="random"),
        Method("aspo 0.5, reward", alpha=0.5, normalization="reward"),
        Method("aspo 0.5, none", alpha=0.5, normalization="none"),
        Method("centred 0.5", alpha=0.5, weighting="centred"),
        Method("centred 1", weighting="centred"),
        Method("centred 1, scale 1", weighting="centred", scale=1.0),
        Method("centred_bounded 1", weighting="centred_bounded"),
        Method("rejected weighted 0.5", alpha=0.5, weight_rejected=True),
        Method("rejected weighted 1", weight_rejected=True),
        Method("centred 1, rejected weighted", weighting="centred", weight_rejected=True),
        Method("pairs weighted", "pair", normalization="none", weighting="given", weight_rejected=True),
        Method("true mask", "mask", weighting="given"),
        Method("true mask, both answers", "mask", weighting="given", weight_rejected=True),
        Method("one-sentence pairs", "none", source="one sentence"),
    )
}


@dataclass(frozen=True)
class Budget:
    """The same for every method. What the search of docs/study.md found for all."""

    learning_rate: float = 3e-4
    beta: float = 0.5
    epochs: int = 2
    batch: int = 32
    warmup: int = 5  # steps


def signals(pairs: Pairs, method: Method, seed: int) -> dict[str, list[list[float]]]:
    """What the method takes for similarities, of both responses."""
    rng = random.Random(seed)
    found: dict[str, list[list[float]]] = {}
    for side in ("chosen", "rejected"):
        if method.signal == "clip":
            found[side] = pairs.similarity[side]
        elif method.signal == "truth":
            found[side] = [[float(true) for true in row] for row in pairs.truth[side]]
        elif method.signal == "mask":
            found[side] = [[float(true == (side == "chosen")) for true in row] for row in pairs.truth[side]]
        elif method.signal == "pair":
            by_pair = pair_weights(pairs)
            found[side] = [[w] * len(row) for w, row in zip(by_pair, pairs.truth[side], strict=True)]
        elif method.signal == "random":
            found[side] = [[rng.random() for _ in row] for row in pairs.truth[side]]
        else:
            found[side] = [[0.0] * len(row) for row in pairs.truth[side]]
    return found


def pair_weights(pairs: Pairs) -> list[float]:
    """1 + |s_w - s_l| of each pair, which multiplies its beta: DA-DPO's (arXiv 2601.00623), with CLIP alone.

    s: mean similarity of an answer's sentences, min-max over all answers. The larger the gap, the easier the
    pair, and the sooner its loss is flat.
    """
    means = {side: [sum(row) / len(row) for row in pairs.similarity[side]] for side in ("chosen", "rejected")}
    both = [*means["chosen"], *means["rejected"]]
    span = max(max(both) - min(both), 1e-6)
    return [1 + abs(chosen - rejected) / span for chosen, rejected in zip(*means.values(), strict=True)]


@torch.no_grad()
def reference_logps(world: World, pairs: Pairs) -> dict[str, list[Tensor]]:
    """Log-probs of both answers' tokens before training."""
    answerer = Answerer(world.model, world.tokenizer)
    kept: dict[str, list[Tensor]] = {"chosen": [], "rejected": []}
    for side, found in kept.items():
        for start in range(0, len(pairs), 128):
            rows = pairs.tokens[side][start : start + 128]
            logps = answerer.logps(pairs.seen[start : start + 128], answerer.pad(rows))
            found += [logp[: len(row)] for logp, row in zip(logps, rows, strict=True)]
    return kept


def train(
    world: World, pairs: Pairs, method: Method, budget: Budget, seed: int, *, shuffle: bool = True
) -> tuple[Any, list[tuple[float, float]]]:
    """A trained copy of the world's model, and loss and accuracy of each step."""
    from transformers import get_cosine_schedule_with_warmup

    model = copy.deepcopy(world.model).train()
    policy = Answerer(model, world.tokenizer)
    given = signals(pairs, method, seed)
    trained = [p for name, p in model.named_parameters() if "vision_tower" not in name]
    optimizer = torch.optim.AdamW(trained, budget.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    rng = random.Random(seed)
    kept = pairs.reference or reference_logps(world, pairs)
    pairs.reference = kept
    steps = budget.epochs * (len(pairs) // budget.batch)
    schedule = get_cosine_schedule_with_warmup(optimizer, budget.warmup, steps)
    seen: list[tuple[float, float]] = []
    for _ in range(budget.epochs):
        order = list(range(len(pairs)))
        if shuffle:
            rng.shuffle(order)
        for start in range(0, len(order) - budget.batch + 1, budget.batch):
            rows = order[start : start + budget.batch]
            output = _loss(policy, pairs, given, kept, rows, method, budget.beta)
            optimizer.zero_grad()
            output.losses.mean().backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            right = (output.chosen_rewards > output.rejected_rewards).float().mean()
            seen.append((output.losses.mean().item(), right.item()))
    return model.eval(), seen


def _loss(
    policy: Answerer,
    pairs: Pairs,
    given: dict[str, list[list[float]]],
    kept: dict[str, list[Tensor]],
    rows: list[int],
    method: Method,
    beta: float,
) -> Any:
    sides = ("chosen", "rejected")
    tokens = [policy.pad([pairs.tokens[side][i] for i in rows]) for side in sides]
    width = max(part.size(1) for part in tokens)
    both = torch.cat(
        [nn.functional.pad(t, (0, width - t.size(1)), value=policy.tokenizer.pad_token_id) for t in tokens]
    )
    logps = policy.logps(pairs.seen[rows + rows], both).chunk(2)
    references = [
        torch.stack([nn.functional.pad(kept[s][i], (0, width - len(kept[s][i]))) for i in rows])
        for s in sides
    ]
    ids = [
        torch.tensor([[*pairs.ids[s][i], *[-1] * (width - len(pairs.ids[s][i]))] for i in rows])
        for s in sides
    ]
    if pairs.context:  # as tokens of a prompt: of no sentence, and in no sum
        before = torch.arange(width) < torch.tensor([pairs.context[i] for i in rows]).unsqueeze(1)
        logps, references, ids = (
            [torch.where(before, nothing, part) for part in parts]
            for parts, nothing in ((logps, 0.0), (references, 0.0), (ids, -1))
        )
    similar = []
    for side in sides:
        most = max(len(given[side][i]) for i in rows)
        similar.append(
            torch.tensor([[*given[side][i], *[math.nan] * (most - len(given[side][i]))] for i in rows])
        )
    rejected = {"rejected_sentence_ids": ids[1], "rejected_similarity": similar[1]}
    return aspo_loss(
        logps[0],
        logps[1],
        references[0],
        references[1],
        ids[0],
        similar[0],
        beta=beta,
        alpha=method.alpha if method.signal == "clip" else 1.0,
        normalization=method.normalization,
        weighting=method.weighting,
        weight_scale=method.scale,
        **(rejected if method.weight_rejected else {}),
    )
