"""The logged values are those of all pairs since the last reading, whatever the batches and ranks."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.method.metrics import AspoMetrics
from tests.core.test_loss import mixed_batch, random_pair, tensors

SETTINGS = {"beta": 0.1, "alpha": 0.5, "normalization": "reward"}


def test_values_are_those_of_the_pairs():
    pairs = mixed_batch(seed=3)
    output = aspo_loss(**tensors(pairs), **SETTINGS)
    metrics = AspoMetrics()
    metrics.update(output)
    values = metrics.compute()
    weights = [output.weights[r, k].item() for r, p in enumerate(pairs) for k in range(len(p.similarity))]
    similarity = [v for p in pairs for v in p.similarity if v is not None]
    perplexity = [
        math.exp(
            -sum(c for c, s in zip(p.chosen, p.sentence_of, strict=True) if s == k) / p.sentence_of.count(k)
        )
        for p in pairs
        for k in range(len(p.similarity))
    ]
    assert values["aspo/weight_mean"] == pytest.approx(sum(weights) / len(weights), rel=1e-5)
    for name, numbers in (("similarity", similarity), ("perplexity", perplexity)):
        assert values[f"aspo/{name}_mean"] == pytest.approx(sum(numbers) / len(numbers), rel=1e-5)
        assert values[f"aspo/{name}_min"] == pytest.approx(min(numbers), rel=1e-5)
        assert values[f"aspo/{name}_max"] == pytest.approx(max(numbers), rel=1e-5)
    assert values["aspo/sentences_mean"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 7) / 6)
    assert values["aspo/single_sentence_share"] == pytest.approx(1 / 6)
    assert values["aspo/missing_similarity_share"] == pytest.approx(1 / 6)
    assert values["aspo/factor_mean"] == pytest.approx(output.factor.mean().item(), rel=1e-5)
    fallback = output.factor_fallback.float().mean().item()
    assert 0 < fallback < 1
    assert values["aspo/normalization_fallback_share"] == pytest.approx(fallback)
    assert metrics.compute() == {}


def test_what_the_weights_do_is_told():
    """Spread, share of the worst-fitting sentence and correlation, each from its definition."""
    pairs = mixed_batch(seed=3)
    output = aspo_loss(**tensors(pairs), beta=0.1, alpha=0.8)
    metrics = AspoMetrics()
    metrics.update(output)
    values = metrics.compute()
    spreads, shares, plain, fits, sures = [], [], [], [], []
    for row, pair in enumerate(pairs):
        count = len(pair.similarity)
        if count == 1:
            continue
        weights = output.weights[row, :count].tolist()
        spreads.append(statistics.pstdev(weights))
        if None in pair.similarity:
            continue
        lowest = pair.similarity.index(min(pair.similarity))
        lengths = [pair.sentence_of.count(k) for k in range(count)]
        weighted = [c * n for c, n in zip(output.coefficients[row].tolist(), lengths, strict=False)]
        shares.append(weighted[lowest] / sum(weighted))
        plain.append(lengths[lowest] / sum(lengths))
        of_perplexity = [-math.exp(output.nll[row, k].item()) for k in range(count)]
        for found, numbers in ((fits, pair.similarity), (sures, of_perplexity)):
            scaled = [(n - min(numbers)) / (max(numbers) - min(numbers)) for n in numbers]
            found += [n - statistics.mean(scaled) for n in scaled]
    assert values["aspo/weight_spread"] == pytest.approx(statistics.mean(spreads), rel=1e-4)
    assert values["aspo/lowest_similarity_weight_share"] == pytest.approx(statistics.mean(shares), rel=1e-4)
    assert values["aspo/lowest_similarity_token_share"] == pytest.approx(statistics.mean(plain), rel=1e-4)
    assert statistics.mean(shares) < statistics.mean(plain)
    expected = statistics.correlation(fits, sures)
    assert values["aspo/signal_correlation"] == pytest.approx(expected, rel=1e-4)


def test_batches_and_ranks_add_up():
    pairs = mixed_batch(seed=3)
    together, halves, ranks = AspoMetrics(), AspoMetrics(), [AspoMetrics(), AspoMetrics(), AspoMetrics()]
    together.update(aspo_loss(**tensors(pairs), **SETTINGS))
    for n, part in enumerate((pairs[:2], pairs[2:])):
        output = aspo_loss(**tensors(part), **SETTINGS)
        halves.update(output)
        ranks[n].update(output)  # the third rank sees no batch
    expected = together.compute()
    assert halves.compute() == pytest.approx(expected, rel=1e-5)

    rows: list[torch.Tensor] = []
    for rank in ranks:
        rank.compute(gather=lambda row: rows.append(row) or row)
    assert len(rows) == 3
    reader = AspoMetrics()
    assert reader.compute(gather=lambda row: torch.cat(rows)) == pytest.approx(expected, rel=1e-5)


def test_two_sentence_ties_are_counted():
    agree = random_pair(random.Random(0), 2)
    agree.chosen = [-0.5 if s == 0 else -2.0 for s in agree.sentence_of]
    agree.similarity = [0.3, 0.1]
    disagree = random_pair(random.Random(0), 2)
    disagree.chosen = list(agree.chosen)
    disagree.similarity = [0.1, 0.3]
    metrics = AspoMetrics()
    metrics.update(aspo_loss(**tensors([agree, disagree]), beta=0.1, alpha=0.5))
    assert metrics.compute()["aspo/two_sentence_tie_share"] == 0.5


def test_no_similarity_leaves_its_keys_out_and_huge_perplexity_stays_finite():
    pair = random_pair(random.Random(0), 3)
    pair.similarity = [None] * 3
    pair.chosen = [-1000.0] * len(pair.chosen)
    metrics = AspoMetrics()
    metrics.update(aspo_loss(**tensors([pair], dtype=torch.float32), beta=0.1, alpha=0.0))
    values = metrics.compute()
    assert not any("similarity_m" in key and "missing" not in key for key in values)
    assert all(math.isfinite(value) for value in values.values())
