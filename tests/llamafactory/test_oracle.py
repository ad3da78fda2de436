"""A step of `stage: aspo` against the method written out in plain Python, loss, rewards and gradients."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import data, oracle

from .conftest import LOGGED_DIGITS

BETA, LEARNING_RATE = 0.2, 1e-2


def per_token(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """log p of each token given those before it, from all logits; `[2B, L]`, column 0 is 0."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    if len(inputs["pixel_values"]) < len(inputs["input_ids"]):  # the image of a pair is in the batch once
        inputs["pixel_values"] = torch.cat([inputs["pixel_values"]] * 2)
    logits = model(**inputs).logits.double()
    chosen = logits[:, :-1].log_softmax(-1).gather(2, batch["input_ids"][:, 1:, None]).squeeze(2)
    return torch.nn.functional.pad(chosen, (1, 0))


def sentence_of(tokenizer: Any, ids: list[int], other: list[int], sentences: list[str]) -> list[int]:
    """The sentence of each token, told from the decoded text alone: where the token's first letter falls.

    -1 for the template's blank before the text, which `other`, the rejected response, begins with as well.
    """
    starts = list(itertools.accumulate((len(text) + 1 for text in sentences), initial=0))[1:]
    found = []
    for position in range(len(ids)):
        before = tokenizer.decode(ids[:position])
        upto = tokenizer.decode(ids[: position + 1])
        first = len(before) + len(upto[len(before) :]) - len(upto[len(before) :].lstrip())
        found.append(min(sum(first >= start for start in starts), len(sentences) - 1))
    blank = 0
    while ids[blank] == other[blank] and not tokenizer.decode(ids[: blank + 1]).strip():
        found[blank] = -1
        blank += 1
    return found


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches that a run's collator makes."""
    from aspo_plugin.llamafactory import collator

    kept: list[dict[str, Any]] = []
    original = collator.SentencePairCollator.__call__

    def call(self: Any, features: Any) -> Any:
        batch = original(self, features)
        kept.append({name: value.clone() for name, value in batch.items() if torch.is_tensor(value)})
        return batch

    monkeypatch.setattr(collator.SentencePairCollator, "__call__", call)
    return kept


@pytest.mark.parametrize("normalization", ["weight", "reward", "none"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_step_equals_the_method(
    alpha: float, normalization: str, train: Any, models: Path, batches: list[dict[str, Any]], tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    [step] = train(
        aspo_alpha=alpha,
        aspo_normalization=normalization,
        pref_beta=BETA,
        finetuning_type="full",
        ref_model=str(models / "reference"),
        max_steps=1,
        max_grad_norm=0.0,
        optim="sgd",
        learning_rate=LEARNING_RATE,
    )
    batch = batches[0]  # the loader collates one ahead
    policy = AutoModelForImageTextToText.from_pretrained(models / "llava", dtype=torch.float32)
    frozen = AutoModelForImageTextToText.from_pretrained(models / "reference", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(models / "llava")
    trained = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32)
    rows = {row["chosen"][0]["content"]: row for row in data.rows(40, 1, sentences=(3, 5))}

    logps = per_token(policy, batch)
    with torch.no_grad():
        ref_logps = per_token(frozen, batch)
    responses = batch["labels"] != -100
    size = len(logps) // 2
    results, surrogate = [], torch.zeros((), dtype=torch.float64)
    for k in range(size):
        here, there = responses[k], responses[size + k]
        ids = batch["input_ids"][k][here].tolist()
        row = rows[tokenizer.decode(ids, skip_special_tokens=True).strip()]
        text = row["chosen"][0]["content"]
        sentences = [text[span["start"] : span["end"]] for span in row["chosen_sentences"]]
        pair = oracle.Pair(
            chosen=logps[k][here].tolist(),
            rejected=logps[size + k][there].tolist(),
            ref_chosen=ref_logps[k][here].tolist(),
            ref_rejected=ref_logps[size + k][there].tolist(),
            sentence_of=sentence_of(tokenizer, ids, batch["input_ids"][size + k][there].tolist(), sentences),
            similarity=row["chosen_similarity"],
        )
        result = oracle.aspo(pair, BETA, alpha, normalization)
        results.append(result)
        surrogate = surrogate + (torch.tensor(result.gradient) * logps[k][here]).sum()
        surrogate = surrogate + result.rejected_gradient * logps[size + k][there].sum()
    (surrogate / size).backward()

    def mean(values: Any) -> float:
        return math.fsum(values) / size

    assert step["loss"] == pytest.approx(mean(r.loss for r in results), abs=2e-5 + LOGGED_DIGITS)
    assert step["rewards/chosen"] == pytest.approx(mean(r.chosen_reward for r in results), abs=5e-5)
    assert step["rewards/rejected"] == pytest.approx(mean(r.rejected_reward for r in results), abs=5e-5)
    assert step["aspo/factor_mean"] == pytest.approx(mean(r.factor for r in results), abs=1e-5)
    weights = [weight for r in results for weight in r.weights.values()]
    assert step["aspo/weight_mean"] == pytest.approx(math.fsum(weights) / len(weights), abs=1e-4)

    updated = dict(trained.named_parameters())
    compared = 0
    for name, parameter in policy.named_parameters():
        if parameter.grad is None or torch.equal(updated[name], parameter):
            continue  # the vision tower is frozen by default
        step_taken = (parameter - updated[name]).detach() / LEARNING_RATE
        scale = parameter.grad.abs().max()
        rounding = 2 * torch.finfo(torch.float32).eps * parameter.abs().max() / LEARNING_RATE
        assert (step_taken - parameter.grad).abs().max() < 1e-3 * scale + rounding, name
        compared += 1
    assert compared > 15
