"""With one sentence per response ASPO is the host's DPO: losses, rewards and gradient norms, step by step."""

from __future__ import annotations

import pytest

from .conftest import LOGGED_DIGITS

COMPARED = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
FLOAT32_EPS = 2.0**-23


def compare(aspo: list[dict], dpo: list[dict], beta: float = 0.1) -> None:
    assert len(aspo) == len(dpo) == 10
    for step, (ours, theirs) in enumerate(zip(aspo, dpo, strict=True)):
        # The host subtracts sums of log-probs, ASPO sums differences: a few units in the last place of a sum.
        rounding = 6 * FLOAT32_EPS * beta * (abs(theirs["logps/chosen"]) + abs(theirs["logps/rejected"]))
        rounding += 2 * LOGGED_DIGITS
        for name in COMPARED:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=rounding), (
                step,
                name,
            )
        for name in ("grad_norm", "logps/chosen", "logps/rejected"):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-5), (step, name)
    assert max(abs(entry["rewards/margins"]) for entry in dpo) > 1e-3  # the policy moved


def test_one_sentence_lora(train, tmp_path):
    common = {"dataset": "one", "max_steps": 10}
    dpo = train(**common, stage="dpo", output_dir=str(tmp_path / "dpo"))
    for normalization in ("weight", "reward", "none"):
        out = tmp_path / normalization
        aspo = train(**common, aspo_normalization=normalization, output_dir=str(out))
        compare(aspo, dpo)
        assert all(entry["aspo/single_sentence_share"] == 1.0 for entry in aspo)


def test_one_sentence_full_with_other_losses(train, models, tmp_path):
    """pref_ftx and pref_bco_weight keep their meaning; gradient accumulation; another reference model."""
    common = {
        "dataset": "one",
        "max_steps": 10,
        "finetuning_type": "full",
        "ref_model": str(models / "reference"),
        "pref_ftx": 0.3,
        "pref_bco_weight": 0.2,
        "pref_beta": 0.3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-4,
    }
    dpo = train(**common, stage="dpo", output_dir=str(tmp_path / "dpo"))
    aspo = train(**common, output_dir=str(tmp_path / "aspo"))
    compare(aspo, dpo, beta=0.3)


def test_many_sentences_are_not_dpo(train, tmp_path):
    dpo = train(stage="dpo", output_dir=str(tmp_path / "dpo"))
    aspo = train(output_dir=str(tmp_path / "aspo"))
    assert abs(aspo[1]["loss"] - dpo[1]["loss"]) > 1e-5
