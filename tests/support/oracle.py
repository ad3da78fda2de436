"""ASPO and DPO written out in plain Python floats, token by token: the reference that tests compare with.

Shares no code with `aspo_plugin`; slow and obvious on purpose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Pair:
    """One preference pair: per-token log-probs, and per sentence its token count and similarity."""

    chosen: list[float]
    rejected: list[float]
    ref_chosen: list[float]
    ref_rejected: list[float]
    sentence_of: list[int]  # of each chosen token; negative: of none, counted once, outside the factor
    similarity: list[float | None]
    rejected_sentence_of: list[int] | None = None
    rejected_similarity: list[float | None] | None = None


@dataclass
class Result:
    loss: float
    chosen_reward: float
    rejected_reward: float
    weights: dict[int, float]
    factor: float
    gradient: list[float]  # d loss / d log pi of each chosen token
    rejected_gradient: float | list[float]  # the same for every rejected token, or one per token


def min_max(values: dict[int, float]) -> dict[int, float]:
    low, high = min(values.values()), max(values.values())
    if high - low <= 1e-6:
        return {k: 0.0 for k in values}
    return {k: (v - low) / (high - low) for k, v in values.items()}


def coefficients(
    weights: dict[int, float],
    lengths: dict[int, int],
    log_ratio: dict[int, float],
    weighting: str,
    scale: float,
    normalization: str,
) -> tuple[dict[int, float], float]:
    """c of each sentence, and the factor of the paper's weighting."""
    total = sum(lengths.values())
    if weighting == "paper":
        factor = total / sum((1 + weights[k]) * n for k, n in lengths.items())
        if normalization == "none":
            factor = 1.0
        signs = {math.copysign(1, v) for v in log_ratio.values() if v != 0}
        if normalization == "reward" and len(signs) == 1:
            factor = sum(log_ratio.values()) / sum((1 + weights[k]) * v for k, v in log_ratio.items())
        return {k: factor * (1 + w) for k, w in weights.items()}, factor
    if weighting == "given":
        heavy = sum(abs(weights[k]) * n for k, n in lengths.items())
        if normalization == "none":
            return dict(weights), 1.0
        return ({k: total * w / heavy for k, w in weights.items()}, total / heavy) if heavy else (
            dict.fromkeys(weights, 1.0), 1.0
        )  # fmt: skip
    mean = sum(weights[k] * n for k, n in lengths.items()) / total
    found = {k: 1 + scale * (w - mean) for k, w in weights.items()}
    if weighting == "centred_bounded":
        found = {k: max(c, 0.0) for k, c in found.items()}
        kept = sum(found[k] * n for k, n in lengths.items())
        found = {k: c * total / kept for k, c in found.items()}
    return found, 1.0


def aspo(
    pair: Pair,
    beta: float,
    alpha: float,
    normalization: str,
    weighting: str = "paper",
    scale: float = 2.0,
    weight_rejected: bool = False,
) -> Result:
    tokens: dict[int, list[int]] = {}
    for position, sentence in enumerate(pair.sentence_of):
        if sentence >= 0:
            tokens.setdefault(sentence, []).append(position)
    outside = [t for t, sentence in enumerate(pair.sentence_of) if sentence < 0]
    log_ratio = {k: sum(pair.chosen[t] - pair.ref_chosen[t] for t in ts) for k, ts in tokens.items()}
    nll = {k: -sum(pair.chosen[t] for t in ts) / len(ts) for k, ts in tokens.items()}

    if max(nll.values()) - min(nll.values()) <= 1e-6:
        sure = {k: 0.0 for k in nll}
    else:
        largest = max(nll.values())  # exp(n - max) keeps the order and the min-max, and cannot overflow
        sure = min_max({k: -math.exp(n - largest) for k, n in nll.items()}) if len(nll) > 1 else {0: 0.0}
        worst, best = nll[max(nll, key=nll.__getitem__)], nll[min(nll, key=nll.__getitem__)]
        if math.exp(best - worst) > 0.999:  # the plain subtraction would lose digits
            sure = {k: (math.expm1(n - worst)) / math.expm1(best - worst) for k, n in nll.items()}
    present = {k: pair.similarity[k] for k in tokens}
    if any(v is None for v in present.values()):
        weights = sure if alpha < 1 else {k: 0.0 for k in tokens}
        if alpha == 0:
            weights = sure
    elif weighting != "given":
        fits = min_max({k: float(v) for k, v in present.items() if v is not None})
        weights = {k: alpha * fits[k] + (1 - alpha) * sure[k] for k in tokens}
    if weighting == "given":
        known = None not in present.values()
        weights = {k: float(v) if known and v is not None else 1.0 for k, v in present.items()}

    lengths = {k: len(ts) for k, ts in tokens.items()}
    way = (weighting, scale, normalization)
    c, factor = coefficients(weights, lengths, log_ratio, *way)
    chosen = beta * sum(c[k] * v for k, v in log_ratio.items())
    chosen += beta * sum(pair.chosen[t] - pair.ref_chosen[t] for t in outside)
    ratios = [p - r for p, r in zip(pair.rejected, pair.ref_rejected, strict=True)]
    sides = [1.0] * len(ratios)
    if weight_rejected:
        of, values = pair.rejected_sentence_of, pair.rejected_similarity
        assert of is not None and values is not None
        there = {k: [r for r, s in zip(ratios, of, strict=True) if s == k] for k in dict.fromkeys(of)}
        worst = dict.fromkeys(there, 0.0 if weighting != "given" else 1.0)
        if weighting == "given" and all(values[k] is not None for k in there):
            worst = {k: float(values[k]) for k in there}  # type: ignore[arg-type]
        elif all(values[k] is not None for k in there):
            fits = min_max({k: float(values[k]) for k in there})  # type: ignore[arg-type]
            if any(fits.values()):
                worst = {k: 1 - v for k, v in fits.items()}
        lengths = {k: len(v) for k, v in there.items()}
        found, _ = coefficients(worst, lengths, {k: sum(v) for k, v in there.items()}, *way)
        sides = [found[k] for k in of]
    rejected = beta * sum(side * ratio for side, ratio in zip(sides, ratios, strict=True))
    margin = chosen - rejected
    loss = max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
    slope = -1.0 / (1.0 + math.exp(margin)) if margin < 700 else 0.0  # d loss / d margin
    gradient = [slope * beta * c.get(k, 1.0) for k in pair.sentence_of]
    against: float | list[float] = (
        [-slope * beta * side for side in sides] if weight_rejected else -slope * beta
    )
    return Result(loss, chosen, rejected, weights, factor, gradient, against)


def dpo(pair: Pair, beta: float) -> float:
    """The DPO loss of the same pair."""
    chosen = sum(pair.chosen) - sum(pair.ref_chosen)
    rejected = sum(pair.rejected) - sum(pair.ref_rejected)
    margin = beta * (chosen - rejected)
    return max(-margin, 0.0) + math.log1p(math.exp(-abs(margin)))
