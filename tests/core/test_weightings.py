"""Weightings beyond the paper: against a plain-Python reference with gradients, and their invariants."""

from __future__ import annotations

import random

import pytest
import torch

from aspo_plugin.method.coefficients import sentence_coefficients
from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.method.metrics import AspoMetrics
from aspo_plugin.method.sentence_sums import SHARED
from tests.core.test_loss import random_pair, tensors
from tests.support.oracle import Pair, aspo, dpo

WAYS = [
    ("paper", 2.0, "weight", True),
    ("paper", 2.0, "reward", True),
    ("paper", 2.0, "none", True),
    *((weighting, scale, "weight", rejected) for weighting in ("centred", "centred_bounded")
      for scale in (1.0, 2.0) for rejected in (False, True)),
    *(("given", 2.0, "weight", rejected) for rejected in (False, True)),
]  # fmt: skip
# Equal weights are DPO in all but this.
AS_THEY_ARE = [("given", 2.0, "none", rejected) for rejected in (False, True)]


def pair_of(rng: random.Random, sentences: int, rejected: int, *, missing: bool = False) -> Pair:
    pair = random_pair(rng, sentences)
    pair.rejected_sentence_of = [k for k in range(rejected) for _ in range(rng.randint(1, 5))]
    pair.rejected = [-rng.expovariate(0.7) for _ in pair.rejected_sentence_of]
    pair.ref_rejected = [r - rng.gauss(0, 0.3) for r in pair.rejected]
    pair.rejected_similarity = [rng.uniform(0.1, 0.4) for _ in range(rejected)]
    if missing:
        pair.rejected_similarity[0] = None
    return pair


def batch_of(pairs: list[Pair], *, weight_rejected: bool, left: int = 2) -> dict[str, torch.Tensor]:
    batch = tensors(pairs, left=left)
    if weight_rejected:
        other = tensors(
            [Pair(**{**vars(p), "sentence_of": p.rejected_sentence_of, "chosen": p.rejected,
                     "ref_chosen": p.ref_rejected, "similarity": p.rejected_similarity}) for p in pairs],
            left=left,
        )  # fmt: skip
        width = batch["rejected_logps"].size(1) - other["sentence_ids"].size(1)
        ids = torch.nn.functional.pad(other["sentence_ids"], (0, width), value=-1)
        batch |= {"rejected_sentence_ids": ids, "rejected_similarity": other["similarity"]}
    for name in ("chosen_logps", "rejected_logps"):
        batch[name].requires_grad_()
    return batch


def mixed(seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return [
        pair_of(rng, 1, 4),
        pair_of(rng, 3, 1),
        pair_of(rng, 5, 2),
        pair_of(rng, 4, 5, missing=True),
        pair_of(rng, 7, 6),
    ]


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
@pytest.mark.parametrize(("weighting", "scale", "normalization", "rejected"), [*WAYS, *AS_THEY_ARE])
def test_equals_the_plain_python_reference_with_gradients(alpha, weighting, scale, normalization, rejected):
    pairs = mixed(seed=int(alpha * 10))
    batch = batch_of(pairs, weight_rejected=rejected)
    options = {"beta": 0.2, "alpha": alpha, "normalization": normalization}
    output = aspo_loss(**batch, **options, weighting=weighting, weight_scale=scale)
    output.losses.sum().backward()
    for row, pair in enumerate(pairs):
        expected = aspo(pair, 0.2, alpha, normalization, weighting, scale, rejected)
        assert output.losses[row].item() == pytest.approx(expected.loss, rel=1e-9)
        assert output.chosen_rewards[row].item() == pytest.approx(expected.chosen_reward, rel=1e-9)
        assert output.rejected_rewards[row].item() == pytest.approx(expected.rejected_reward, rel=1e-9)
        inside = batch["sentence_ids"][row] >= 0
        gradient = batch["chosen_logps"].grad[row]
        assert gradient[inside].tolist() == pytest.approx(expected.gradient, rel=1e-9)
        assert gradient[~inside].abs().max() == 0
        gradient = batch["rejected_logps"].grad[row, 2 : 2 + len(pair.rejected)].tolist()
        wanted = expected.rejected_gradient
        wanted = wanted if isinstance(wanted, list) else [wanted] * len(gradient)
        assert gradient == pytest.approx(wanted, rel=1e-9)
        coefficients = output.coefficients[row][output.token_counts[row] > 0].tolist()
        if weighting == "given" and normalization == "none":
            assert coefficients == pytest.approx(pair.similarity)
    if rejected:
        assert output.rejected_similarity_missing.tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(("weighting", "scale", "normalization", "rejected"), WAYS)
def test_equal_weights_are_dpo(weighting, scale, normalization, rejected):
    pairs = [pair_of(random.Random(seed), 5, 4) for seed in range(8)]
    for pair in pairs:
        pair.similarity, pair.rejected_similarity = [0.25] * 5, [0.3] * 4
    pairs += [pair_of(random.Random(9), 1, 1)]
    options = {"beta": 0.1, "alpha": 1.0, "normalization": normalization}
    output = aspo_loss(
        **batch_of(pairs, weight_rejected=rejected), **options, weighting=weighting, weight_scale=scale
    )
    assert output.losses.tolist() == pytest.approx([dpo(pair, 0.1) for pair in pairs], rel=1e-10)
    assert (output.coefficients[output.token_counts > 0] - 1).abs().max() < 1e-12


def test_given_weights_are_a_mask_a_pair_weight_or_a_sign():
    """0 and 1 leave sentences out; one number for a whole pair scales beta; below 0 pushes down; all 0 is DPO
    where the total token weight stays, and nothing where each number is taken as it is."""
    pair = pair_of(random.Random(4), 4, 3)
    options = {"beta": 0.3, "alpha": 1.0, "weighting": "given"}

    def run(chosen: list[float], rejected: list[float], normalization: str) -> tuple[float, torch.Tensor]:
        pair.similarity, pair.rejected_similarity = list(chosen), list(rejected)
        output = aspo_loss(**batch_of([pair], weight_rejected=True), **options, normalization=normalization)
        return output.losses.item(), output.coefficients[0, :4]

    counts = [pair.sentence_of.count(k) for k in range(4)]
    _, mask = run([0, 1, 1, 0], [1, 1, 1], "weight")
    kept = sum(counts) / (counts[1] + counts[2])
    assert mask.tolist() == pytest.approx([0, kept, kept, 0])
    assert run([2.5] * 4, [2.5] * 3, "none")[0] == pytest.approx(dpo(pair, 0.3 * 2.5), rel=1e-10)
    assert run([2.5] * 4, [0.1] * 3, "weight")[0] == pytest.approx(dpo(pair, 0.3), rel=1e-10)
    assert run([0] * 4, [0] * 3, "weight")[0] == pytest.approx(dpo(pair, 0.3), rel=1e-10)
    assert run([0] * 4, [0] * 3, "none")[0] == pytest.approx(0.6931471805599453)
    loss, below = run([-1, 1, 1, 1], [1] * 3, "weight")
    assert below.tolist() == pytest.approx([-1, 1, 1, 1])
    assert loss != pytest.approx(dpo(pair, 0.3), rel=1e-3)
    with pytest.raises(ValueError, match="choose weight or none"):
        run([1] * 4, [1] * 3, "reward")


@pytest.mark.parametrize("weighting", ["paper", "centred", "centred_bounded"])
def test_the_total_token_weight_stays_and_only_centred_goes_below_zero(weighting):
    weights = torch.tensor([[0.0, 1.0, 1.0, 1.0], [0.2, 0.9, 0.0, 0.0]], dtype=torch.float64)
    counts = torch.tensor([[5.0, 6.0, 7.0, 20.0], [4.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    found = sentence_coefficients(weights, counts, torch.zeros_like(weights), weighting=weighting)
    assert torch.allclose((found.values * counts).sum(1), counts.sum(1))
    assert (found.values[counts == 0] == 0).all()
    assert bool((found.values < 0).any()) == (weighting == "centred")
    rows = torch.where(counts > 0, found.values, torch.nan)
    assert rows[0, 0] < rows[0, 1] and rows[1, 0] < rows[1, 1]


def test_a_single_way_differs_from_each_other():
    """No option is without effect: eight ways, eight gradients."""
    pairs = [pair_of(random.Random(3), 5, 4)]
    pairs[0].similarity = [0.1, 0.4, 0.38, 0.39, 0.4]  # one lies far below, and gets less than 0 where it may
    gradients = []
    for weighting, scale in (("paper", 2.0), ("centred", 1.0), ("centred", 2.0), ("centred_bounded", 2.0)):
        for rejected in (False, True):
            batch = batch_of(pairs, weight_rejected=rejected)
            aspo_loss(
                **batch, beta=0.1, alpha=1.0, weighting=weighting, weight_scale=scale
            ).losses.sum().backward()
            parts = (batch["chosen_logps"].grad.nan_to_num(), batch["rejected_logps"].grad)
            gradients.append(torch.cat([part.flatten() for part in parts]))
    for first in range(8):
        for second in range(first):
            assert not torch.allclose(gradients[first], gradients[second], rtol=1e-3), (first, second)


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
@pytest.mark.parametrize("weighting", ["paper", "centred", "centred_bounded", "given"])
def test_extremes_stay_finite_in_float32(weighting, scale):
    pair = pair_of(random.Random(5), 200, 90)
    pair.chosen = [c + scale for c in pair.chosen]
    pair.rejected = [c - scale for c in pair.rejected]
    batch = {k: v.detach().float() if v.is_floating_point() else v
             for k, v in batch_of([pair], weight_rejected=True).items()}  # fmt: skip
    for name in ("chosen_logps", "rejected_logps"):
        batch[name].requires_grad_()
    output = aspo_loss(**batch, beta=0.1, alpha=0.5, weighting=weighting)
    assert output.losses.isfinite().all() and output.coefficients.isfinite().all()
    output.losses.sum().backward()
    assert batch["chosen_logps"].grad.isfinite().all() and batch["rejected_logps"].grad.isfinite().all()


def test_shared_template_tokens_cancel_with_weighted_rejected_responses():
    pairs = mixed(seed=7)
    batch = batch_of(pairs, weight_rejected=True, left=4)
    expected = aspo_loss(**batch, beta=0.2, alpha=0.5, weighting="centred").losses
    for side in ("", "ref_"):
        template = -5 * torch.rand((len(pairs), 2), dtype=torch.float64)
        for name in ("chosen", "rejected"):
            logps = batch[f"{side}{name}_logps"] = batch[f"{side}{name}_logps"].detach().clone()
            logps[:, 2:4] = template
    batch["sentence_ids"][:, 2:4] = batch["rejected_sentence_ids"][:, 2:4] = SHARED
    found = aspo_loss(**batch, beta=0.2, alpha=0.5, weighting="centred").losses
    assert torch.allclose(found, expected, rtol=1e-12)


def test_one_of_two_for_the_rejected_responses_is_an_error():
    batch = batch_of(mixed(seed=1), weight_rejected=True)
    batch.pop("rejected_similarity")
    with pytest.raises(ValueError, match="go together"):
        aspo_loss(**batch, beta=0.1, alpha=0.5)
    with pytest.raises(ValueError, match="choose one of paper, centred"):
        aspo_loss(**batch_of(mixed(seed=1), weight_rejected=False), beta=0.1, alpha=0.5, weighting="x")
    empty = batch_of(mixed(seed=1), weight_rejected=True)
    empty["rejected_sentence_ids"][1] = -1
    with pytest.raises(ValueError, match=r"the rejected response of pair\(s\) \[1\]"):
        aspo_loss(**empty, beta=0.1, alpha=0.5)


def test_negative_coefficients_and_missing_similarities_are_counted():
    pairs = mixed(seed=2)
    pairs[4].similarity = [0.1, *[0.4] * 6]
    metrics = AspoMetrics()
    batch = batch_of(pairs, weight_rejected=True)
    output = aspo_loss(**batch, beta=0.1, alpha=1.0, weighting="centred")
    metrics.update(output)
    values = metrics.compute()
    assert values["aspo/negative_coefficient_share"] == (output.coefficients < 0).any(1).float().mean() > 0
    assert values["aspo/rejected_missing_similarity_share"] == pytest.approx(1 / 5)
