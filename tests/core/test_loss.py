"""The loss against a plain-Python reference, its gradients, and the invariants of the method."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.method.sentence_sums import SHARED
from tests.support.oracle import Pair, aspo, dpo

NORMALIZATIONS = ("weight", "reward", "none")
SETTINGS = list(itertools.product((0.0, 0.3, 0.5, 1.0), NORMALIZATIONS))


def random_pair(rng: random.Random, sentences: int, *, one_sign: bool = False, missing: bool = False) -> Pair:
    sentence_of = [k for k in range(sentences) for _ in range(rng.randint(1, 6))]
    chosen = [-rng.expovariate(0.7) for _ in sentence_of]
    shift = [abs(rng.gauss(0, 0.3)) if one_sign else rng.gauss(0, 0.3) for _ in sentence_of]
    rejected = [-rng.expovariate(0.7) for _ in range(rng.randint(1, 12))]
    similarity = [rng.uniform(0.1, 0.4) for _ in range(sentences)]
    if missing:
        similarity[rng.randrange(sentences)] = None
    return Pair(
        chosen=chosen,
        rejected=rejected,
        ref_chosen=[c - s for c, s in zip(chosen, shift, strict=True)],
        ref_rejected=[r - rng.gauss(0, 0.3) for r in rejected],
        sentence_of=sentence_of,
        similarity=similarity,
    )


def tensors(pairs: list[Pair], *, dtype=torch.float64, pad: int = 3, left: int = 2, extra_sentences: int = 1):
    """A padded batch with prompt positions on the left; padding holds NaN where it must not be read."""
    length = left + max(max(len(p.chosen), len(p.rejected)) for p in pairs) + pad
    width = max(len(p.similarity) for p in pairs) + extra_sentences

    def row(values, fill):
        return [fill] * left + list(values) + [fill] * (length - left - len(values))

    return {
        "chosen_logps": torch.tensor([row(p.chosen, float("nan")) for p in pairs], dtype=dtype),
        "rejected_logps": torch.tensor([row(p.rejected, 0.0) for p in pairs], dtype=dtype),
        "ref_chosen_logps": torch.tensor([row(p.ref_chosen, float("nan")) for p in pairs], dtype=dtype),
        "ref_rejected_logps": torch.tensor([row(p.ref_rejected, 0.0) for p in pairs], dtype=dtype),
        "sentence_ids": torch.tensor([row(p.sentence_of, -1) for p in pairs]),
        "similarity": torch.tensor(
            [
                [float("nan") if v is None else v for v in p.similarity]
                + [9.0] * (width - len(p.similarity))  # absent sentences must not be read
                for p in pairs
            ],
            dtype=dtype,
        ),
    }


def mixed_batch(seed: int) -> list[Pair]:
    rng = random.Random(seed)
    return [
        random_pair(rng, 1),
        random_pair(rng, 2),
        random_pair(rng, 3, one_sign=True),
        random_pair(rng, 4),
        random_pair(rng, 5, missing=True),
        random_pair(rng, 7, one_sign=True),
    ]


@pytest.mark.parametrize(("alpha", "normalization"), SETTINGS)
def test_equals_the_plain_python_reference_with_gradients(alpha, normalization):
    pairs = mixed_batch(seed=int(alpha * 10))
    batch = tensors(pairs)
    for name in ("chosen_logps", "rejected_logps"):
        batch[name].requires_grad_()
    output = aspo_loss(**batch, beta=0.2, alpha=alpha, normalization=normalization)
    output.losses.sum().backward()
    for row, pair in enumerate(pairs):
        expected = aspo(pair, 0.2, alpha, normalization)
        assert output.losses[row].item() == pytest.approx(expected.loss, rel=1e-10)
        assert output.chosen_rewards[row].item() == pytest.approx(expected.chosen_reward, rel=1e-9)
        assert output.rejected_rewards[row].item() == pytest.approx(expected.rejected_reward, rel=1e-9)
        assert output.factor[row].item() == pytest.approx(expected.factor, rel=1e-9)
        for k, weight in expected.weights.items():
            assert output.weights[row, k].item() == pytest.approx(weight, abs=1e-9)
        inside = batch["sentence_ids"][row] >= 0
        gradient = batch["chosen_logps"].grad[row]
        assert gradient[inside].tolist() == pytest.approx(expected.gradient, rel=1e-9)
        assert gradient[~inside].abs().max() == 0
        rejected = batch["rejected_logps"].grad[row, 2 : 2 + len(pair.rejected)]
        assert rejected.tolist() == pytest.approx([expected.rejected_gradient] * len(pair.rejected), rel=1e-9)


def test_reward_normalisation_is_really_used():
    """Where it applies its value is DPO's margin, but its gradient is not DPO's."""
    pair = random_pair(random.Random(3), 4, one_sign=True)
    batch = tensors([pair])
    batch["chosen_logps"].requires_grad_()
    output = aspo_loss(**batch, beta=0.1, alpha=0.5, normalization="reward")
    assert not output.factor_fallback.any()
    assert output.losses.item() == pytest.approx(dpo(pair, 0.1), rel=1e-9)
    output.losses.sum().backward()
    gradient = batch["chosen_logps"].grad[0][batch["sentence_ids"][0] >= 0]
    assert gradient.max() / gradient.min() < 0.99 or gradient.min() / gradient.max() < 0.99
    opposite = tensors([random_pair(random.Random(4), 4)])
    mixed = aspo_loss(**opposite, beta=0.1, alpha=0.5, normalization="reward")
    assert mixed.factor_fallback.all()
    by_weight = aspo_loss(**opposite, beta=0.1, alpha=0.5, normalization="weight")
    assert mixed.factor.item() == by_weight.factor.item()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_one_sentence_is_dpo(normalization):
    pairs = [random_pair(random.Random(seed), 1) for seed in range(8)]
    output = aspo_loss(**tensors(pairs), beta=0.1, alpha=0.5, normalization=normalization)
    assert output.losses.tolist() == pytest.approx([dpo(pair, 0.1) for pair in pairs], rel=1e-10)
    assert output.weights.abs().max() == 0 and (output.factor == 1).all()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_equal_similarities_at_alpha_1_are_dpo(normalization):
    pairs = [random_pair(random.Random(seed), 5) for seed in range(8)]
    for pair in pairs:
        pair.similarity = [0.25] * 5
    output = aspo_loss(**tensors(pairs), beta=0.1, alpha=1.0, normalization=normalization)
    assert output.losses.tolist() == pytest.approx([dpo(pair, 0.1) for pair in pairs], rel=1e-10)


def test_two_sentences_that_disagree_at_one_half_are_dpo():
    pair = Pair([-0.1, -0.1, -3.0], [-1.0], [-0.2, -0.3, -2.0], [-1.5], [0, 0, 1], [0.1, 0.3])
    output = aspo_loss(**tensors([pair]), beta=0.1, alpha=0.5, normalization="weight")
    assert output.weights[0, :2].tolist() == pytest.approx([0.5, 0.5])
    assert output.losses.item() == pytest.approx(dpo(pair, 0.1), rel=1e-10)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_alpha_selects_the_signal(normalization):
    pairs = [random_pair(random.Random(seed), 4, one_sign=True) for seed in range(4)]
    swapped = tensors(pairs)
    swapped["similarity"] = swapped["similarity"].flip(1)[:, [1, 2, 3, 4, 0]]
    surer = tensors(pairs)  # another policy and reference with the same log-ratios: only perplexity changes
    shift = torch.where(surer["sentence_ids"] == 2, -5.0, 0.0)
    surer["chosen_logps"], surer["ref_chosen_logps"] = (
        surer["chosen_logps"] + shift,
        surer["ref_chosen_logps"] + shift,
    )

    def gradient(batch, alpha):
        batch = {name: value.clone() for name, value in batch.items()}
        batch["chosen_logps"].requires_grad_()
        aspo_loss(**batch, beta=0.1, alpha=alpha, normalization=normalization).losses.sum().backward()
        return batch["chosen_logps"].grad.nan_to_num()

    plain = tensors(pairs)
    for alpha, similarity_matters, perplexity_matters in (
        (0, False, True),
        (0.5, True, True),
        (1, True, False),
    ):
        alpha = float(alpha)
        same = gradient(plain, alpha)
        assert torch.allclose(same, gradient(swapped, alpha), rtol=1e-9) != similarity_matters
        assert torch.allclose(same, gradient(surer, alpha), rtol=1e-9) != perplexity_matters


@pytest.mark.parametrize(("alpha", "normalization"), SETTINGS)
def test_permutation_padding_and_affine_similarity_change_nothing(alpha, normalization):
    pairs = mixed_batch(seed=11)
    kwargs = {"beta": 0.1, "alpha": alpha, "normalization": normalization}
    base = aspo_loss(**tensors(pairs), **kwargs).losses
    order = [3, 0, 5, 1, 4, 2]
    permuted = aspo_loss(**tensors([pairs[i] for i in order]), **kwargs).losses
    assert torch.allclose(permuted, base[order], rtol=1e-12)
    padded = aspo_loss(**tensors(pairs, pad=40, left=17, extra_sentences=9), **kwargs).losses
    assert torch.allclose(padded, base, rtol=1e-12)
    alone = torch.cat([aspo_loss(**tensors([pair]), **kwargs).losses for pair in pairs])
    assert torch.allclose(alone, base, rtol=1e-12)
    scaled = tensors(pairs)
    scaled["similarity"] = scaled["similarity"] * 3.7 - 0.4
    assert torch.allclose(aspo_loss(**scaled, **kwargs).losses, base, rtol=1e-9)


@pytest.mark.parametrize(("alpha", "normalization"), SETTINGS)
@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extremes_stay_finite_in_float32(alpha, normalization, scale):
    rng = random.Random(5)
    one_token = Pair(
        [-1e3, -0.0, -1e-7], [-1e3], [-1e3 - scale, -scale, -1e-7], [-1e3], [0, 1, 2], [1, -1, 0]
    )
    many = random_pair(rng, 200)
    far = random_pair(rng, 3)
    far.chosen = [c + scale for c in far.chosen]
    batch = tensors([one_token, many, far], dtype=torch.float32)
    for name in ("chosen_logps", "rejected_logps"):
        batch[name].requires_grad_()
    output = aspo_loss(**batch, beta=0.1, alpha=alpha, normalization=normalization)
    assert output.losses.isfinite().all() and output.weights.isfinite().all()
    assert ((output.weights >= 0) & (output.weights <= 1)).all()
    if normalization != "none":
        assert ((output.factor >= 0.5 - 1e-6) & (output.factor <= 1 + 1e-6)).all()
    output.losses.sum().backward()
    assert batch["chosen_logps"].grad.isfinite().all() and batch["rejected_logps"].grad.isfinite().all()


def test_half_precision_inputs_are_summed_in_float32():
    pairs = mixed_batch(seed=2)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in tensors(pairs).items()}
    wide = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    kwargs = {"beta": 0.1, "alpha": 0.5, "normalization": "weight"}
    output = aspo_loss(**half, **kwargs)
    assert output.losses.dtype == torch.float32
    assert torch.equal(output.losses, aspo_loss(**wide, **kwargs).losses)


def test_a_missing_similarity_falls_back_for_its_response_only():
    rng = random.Random(8)
    pairs = [random_pair(rng, 4, missing=True), random_pair(rng, 4)]
    output = aspo_loss(**tensors(pairs), beta=0.1, alpha=0.5)
    assert output.similarity_missing.tolist() == [True, False]
    only_perplexity = aspo_loss(**tensors(pairs), beta=0.1, alpha=0.0)
    assert torch.equal(output.weights[0], only_perplexity.weights[0])
    assert not torch.equal(output.weights[1], only_perplexity.weights[1])
    assert not only_perplexity.similarity_missing.any()
    at_one = aspo_loss(**tensors(pairs), beta=0.1, alpha=1.0)
    assert at_one.losses[0].item() == pytest.approx(dpo(pairs[0], 0.1), rel=1e-10)


def test_sentences_cut_off_do_not_take_part():
    pair = random_pair(random.Random(1), 4)
    cut = Pair(**{**vars(pair), "similarity": [*pair.similarity, 0.9, -0.9]})
    kwargs = {"beta": 0.1, "alpha": 0.5, "normalization": "weight"}
    assert torch.equal(
        aspo_loss(**tensors([cut]), **kwargs).losses, aspo_loss(**tensors([pair]), **kwargs).losses
    )


@pytest.mark.parametrize(("alpha", "normalization"), SETTINGS)
def test_template_tokens_that_both_begin_with_cancel(alpha, normalization):
    """As in DPO: whatever the policy and the reference think of them, and whatever the weights are."""
    pairs = mixed_batch(seed=7)
    kwargs = {"beta": 0.2, "alpha": alpha, "normalization": normalization}
    plain, expected = tensors(pairs, left=4), tensors(pairs, left=4)
    generator = torch.Generator().manual_seed(0)
    for side in ("", "ref_"):
        template = -5 * torch.rand((len(pairs), 2), generator=generator, dtype=torch.float64)
        plain[f"{side}chosen_logps"][:, 2:4] = plain[f"{side}rejected_logps"][:, 2:4] = template
    plain["sentence_ids"][:, 2:4] = SHARED
    for batch in (plain, expected):
        for name in ("chosen_logps", "rejected_logps"):
            batch[name].requires_grad_()
    output = aspo_loss(**plain, **kwargs)
    without = aspo_loss(**expected, **kwargs)
    assert torch.allclose(output.losses, without.losses, rtol=1e-12)
    assert torch.equal(output.weights, without.weights) and torch.equal(output.factor, without.factor)
    assert torch.equal(output.token_counts, without.token_counts)
    assert not torch.allclose(output.chosen_rewards, without.chosen_rewards)
    output.losses.sum().backward()
    chosen, rejected = plain["chosen_logps"].grad[:, 2:4], plain["rejected_logps"].grad[:, 2:4]
    assert torch.equal(chosen, -rejected) and chosen.abs().min() > 0


def test_an_empty_response_and_an_unknown_normalisation_are_errors():
    batch = tensors(mixed_batch(seed=1))
    batch["sentence_ids"][2] = -1
    with pytest.raises(ValueError, match=r"pair\(s\) \[2\]"):
        aspo_loss(**batch, beta=0.1, alpha=0.5)
    with pytest.raises(ValueError, match="choose one of weight, reward, none"):
        aspo_loss(**tensors(mixed_batch(seed=1)), beta=0.1, alpha=0.5, normalization="length")


def test_runs_under_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        batch = tensors(mixed_batch(seed=1))
        batch["chosen_logps"].requires_grad_()
        aspo_loss(**batch, beta=0.1, alpha=0.5).losses.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
