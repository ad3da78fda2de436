"""The logged values are those of all pairs since the last reading, whatever the batches and ranks."""

from __future__ import annotations

import math
import random
import statistics

import pytest
import torch

from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.method.metrics import AspoMetrics, reward_values
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


def test_counts_of_sentences_and_nothing_but_the_named_keys():
    pairs = [random_pair(random.Random(n), n) for n in (1, 2, 2, 3)]
    metrics = AspoMetrics()
    metrics.update(aspo_loss(**tensors(pairs), **SETTINGS), shared_prefix=True)
    values = metrics.compute(prefix="")
    assert values["single_sentence_share"] == 0.25 and values["shared_prefix_share"] == 1.0
    assert set(values) == {
        *(f"{name}_{kind}" for name in ("similarity", "perplexity") for kind in ("mean", "min", "max")),
        *("weight_mean", "weight_spread", "sentences_mean", "factor_mean", "signal_correlation"),
        *("lowest_similarity_weight_share", "lowest_similarity_token_share", "single_sentence_share"),
        *("two_sentence_tie_share", "missing_similarity_share", "rejected_missing_similarity_share"),
        *("negative_coefficient_share", "normalization_fallback_share", "shared_prefix_share"),
    }


@pytest.mark.parametrize("constant", ["similarity", "perplexity"])
def test_a_signal_that_says_nothing_has_no_correlation(constant):
    pairs = [random_pair(random.Random(n), 3) for n in range(2)]
    for pair in pairs:
        if constant == "similarity":
            pair.similarity = [0.2] * 3
        else:
            pair.chosen = [-1.0] * len(pair.chosen)
    metrics = AspoMetrics()
    metrics.update(aspo_loss(**tensors(pairs), **SETTINGS))
    assert "aspo/signal_correlation" not in metrics.compute()


def test_two_equal_sentences_are_no_tie_of_the_signals():
    """Both signals say the same of both: weights of zero, which is no disagreement."""
    pair = random_pair(random.Random(0), 2)
    pair.chosen, pair.similarity = [-1.0] * len(pair.chosen), [0.2, 0.2]
    other = random_pair(random.Random(1), 2)
    other.chosen = [-0.5 if s == 0 else -2.0 for s in other.sentence_of]
    other.similarity = [0.3, 0.1]
    metrics = AspoMetrics()
    metrics.update(aspo_loss(**tensors([pair, other]), beta=0.1, alpha=0.5))
    assert metrics.compute()["aspo/two_sentence_tie_share"] == 0.0


def test_weights_of_the_data_are_no_tie_and_shares_stay_within_one():
    """Two equal numbers are what the data says; numbers on both sides of 0 may add up to nothing."""
    equal, signs = random_pair(random.Random(0), 2), random_pair(random.Random(1), 3)
    equal.similarity, signs.similarity = [2.0, 2.0], [-1.0, 1.0, 1.0]
    metrics = AspoMetrics()
    metrics.update(
        aspo_loss(**tensors([equal]), beta=0.1, alpha=1.0, weighting="given", normalization="none")
    )
    assert metrics.compute()["aspo/two_sentence_tie_share"] == 0.0
    counts = [signs.sentence_of.count(k) for k in range(3)]
    signs.similarity = [-counts[1] / counts[0], 1.0, 1e-3]  # the first two cancel
    metrics.update(aspo_loss(**tensors([signs]), beta=0.1, alpha=1.0, weighting="given"))
    share = metrics.compute()["aspo/lowest_similarity_weight_share"]
    assert share == pytest.approx(-counts[1] / (2 * counts[1] + 1e-3 * counts[2]), rel=1e-4)


def test_the_hosts_metrics_are_those_of_dpo():
    pairs = mixed_batch(seed=5)
    batch = tensors(pairs)
    output = aspo_loss(**batch, **SETTINGS)
    rejected = batch["rejected_logps"]
    chosen = torch.where(batch["sentence_ids"] >= 0, batch["chosen_logps"], 0.0)
    values = reward_values(output, chosen, rejected)
    margin = output.chosen_rewards - output.rejected_rewards
    expected = {
        "rewards/chosen": output.chosen_rewards,
        "rewards/rejected": output.rejected_rewards,
        "rewards/margins": margin,
        "rewards/accuracies": (margin > 0).float(),
        "logps/chosen": torch.tensor([sum(pair.chosen) for pair in pairs], dtype=torch.float64),
        "logps/rejected": torch.tensor([sum(pair.rejected) for pair in pairs], dtype=torch.float64),
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value.to(values[name].dtype), rtol=1e-6, atol=1e-6)
        assert not values[name].requires_grad
    even = output._replace(chosen_rewards=0 * margin, rejected_rewards=0 * margin)
    assert not reward_values(even, chosen, rejected)["rewards/accuracies"].any()
