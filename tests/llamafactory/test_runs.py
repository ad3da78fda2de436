"""Whole runs in the ways that users combine: each trains, and logs what it should."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import data

from .conftest import history, write_sets

ASPO_KEYS = {
    f"aspo/{name}"
    for name in (
        *(f"{signal}_{kind}" for signal in ("similarity", "perplexity") for kind in ("mean", "min", "max")),
        "weight_mean",
        "weight_spread",
        "lowest_similarity_weight_share",
        "lowest_similarity_token_share",
        "signal_correlation",
        "sentences_mean",
        "factor_mean",
        "rejected_missing_similarity_share",
        "negative_coefficient_share",
        "single_sentence_share",
        "two_sentence_tie_share",
        "missing_similarity_share",
        "normalization_fallback_share",
    )
}
HOST_KEYS = {
    "loss",
    "grad_norm",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
}


def test_everything_at_once(train: Any, datasets: Path, tmp_path: Path) -> None:
    """Mixed sets, several eval sets, checkpointing, accumulation, workers, plots; card, settings and logs."""
    log = train(
        dataset="many,text",
        eval_dataset="many,one",
        eval_on_each_dataset=True,
        eval_strategy="steps",
        eval_steps=2,
        do_eval=True,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=4,
        preprocessing_num_workers=2,
        plot_loss=True,
        pref_ftx=0.1,
        aspo_alpha=0.7,
        aspo_normalization="reward",
    )
    out = tmp_path / "out"
    assert len(log) == 4
    for entry in log:
        assert HOST_KEYS | ASPO_KEYS <= entry.keys()
        assert all(math.isfinite(entry[key]) for key in HOST_KEYS | ASPO_KEYS)
        assert 0 < entry["aspo/weight_mean"] < 1 and 0 < entry["aspo/weight_spread"] <= 0.5
    assert any(entry["aspo/missing_similarity_share"] > 0 for entry in log)  # the text-only rows
    evaluated = [entry for entry in history(out) if "eval_many_loss" in entry]
    names = ("aspo/weight_mean", "rewards/margins")
    assert len(evaluated) >= 2 and all(f"eval_many_{name}" in entry for entry in evaluated for name in names)
    one = [entry for entry in history(out) if "eval_one_loss" in entry]
    assert one and all(f"eval_one_{name}" in entry for entry in one for name in names)
    assert not any(f"eval_{name}" in entry for entry in history(out) for name in names)
    assert (out / "training_loss.png").exists() and (
        out / "training_aspo_lowest_similarity_weight_share.png"
    ).exists()

    saved = json.loads((out / "aspo_args.json").read_text())
    assert saved["finetuning_args"]["stage"] == "aspo"
    assert saved["finetuning_args"]["aspo_alpha"] == 0.7
    assert saved["finetuning_args"]["aspo_normalization"] == "reward"
    assert saved["data"]["training"]["rows"] == 48
    from huggingface_hub import ModelCard

    card = ModelCard.load(out / "README.md")
    assert {"aspo", "llama-factory", "lora"} <= set(card.data.tags)
    assert "dpo" not in card.data.tags
    assert "arxiv.org/abs/2505.19100" in card.text and "| `aspo_alpha` | 0.7 |" in card.text
    assert "aspo" in ModelCard.load(out / "README.md").data.tags


@pytest.mark.parametrize(
    "changes",
    [
        {"finetuning_type": "full"},
        {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
        {"quantization_bit": 4, "quantization_method": "bnb"},
        {"streaming": True, "dataloader_num_workers": 1, "buffer_size": 4},
        {"dataset": "text"},
        {"disable_gradient_checkpointing": True, "use_dora": True},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_ways_to_train(changes: dict[str, Any], train: Any) -> None:
    log = train(**changes)
    assert [entry["step"] for entry in log] == [1, 2]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are equal
    assert log[1]["loss"] != pytest.approx(math.log(2), abs=1e-7)
    assert all(math.isfinite(entry["grad_norm"]) and entry["grad_norm"] > 0 for entry in log)


def test_rows_of_several_images_train(train: Any, tmp_path: Path) -> None:
    rows = data.rows(8, 20, images_per_prompt=2)
    for row in rows[::2]:
        row["prompt"] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": "I do."},
            *row["prompt"],
        ]
    log = train(dataset_dir=str(write_sets(tmp_path / "sets", {"two": rows})), dataset="two")
    assert len(log) == 2


def test_evaluation_alone(train: Any, recipe: dict[str, Any], models: Path, tmp_path: Path) -> None:
    from llamafactory.train.tuner import run_exp

    evaluation = {
        **{key: value for key, value in recipe.items() if key not in ("dataset", "max_steps")},
        "do_train": False,
        "do_eval": True,
        "eval_dataset": "many",
    }
    run_exp({**evaluation, "ref_model": str(models / "reference")})
    found = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert found["eval_rewards/margins"] != 0 and 0 < found["eval_aspo/weight_mean"] < 1
    run_exp({**evaluation, "output_dir": str(tmp_path / "alone")})
    assert "eval_rewards/margins" not in json.loads((tmp_path / "alone" / "eval_results.json").read_text())


@pytest.mark.parametrize(
    ("finetuning_type", "saved"), [("lora", "adapter_model.safetensors"), ("full", "model.safetensors")]
)
def test_resuming_changes_nothing(train: Any, tmp_path: Path, finetuning_type: str, saved: str) -> None:
    """Stopped after step 5 and resumed: the same log and weights, bit for bit."""
    from safetensors.torch import load_file

    common = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5, "lr_scheduler_type": "cosine"}
    common["finetuning_type"] = finetuning_type
    whole = train(**common)
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "out" / "checkpoint-5", again / "checkpoint-5")
    resumed = train(**common, output_dir=str(again))
    compared = [key for key in whole[0] if key not in ("epoch",)]
    assert [entry["step"] for entry in resumed] == list(range(1, 9))
    for before, after in zip(whole[5:], resumed[5:], strict=True):
        assert {key: before[key] for key in compared} == {key: after[key] for key in compared}
    weights = [load_file(folder / saved) for folder in (tmp_path / "out", again)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    # Every checkpoint knows what it was trained for.
    with pytest.raises(ValueError, match=r"aspo_alpha was 0\.5, now 0\.9.*delete .*aspo_settings\.json"):
        train(**common, output_dir=str(again), aspo_alpha=0.9)


def test_similarity_model_scores_once(
    train: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`aspo_similarity_model` gives what the scorer gives, and a second run reads it from disk."""
    import torch

    from dataset_tools.scoring import scorer

    class Drawing(scorer.SentenceScorer):
        """Loading a model draws random numbers, as with transformers 4."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            torch.rand(1), random.random(), np.random.rand()

    monkeypatch.setattr(scorer, "SentenceScorer", Drawing)
    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "scores"))
    # Only the rows without similarities are scored.
    common = {
        "dataset": "unscored,text,many",
        "aspo_similarity_model": str(models / "clip"),
        "aspo_alpha": 1.0,
    }
    first = train(**common, output_dir=str(tmp_path / "first"))
    [kept] = (tmp_path / "scores" / "aspo_similarity").iterdir()
    rows = [row for row in data.rows(8, 3, sentences=(2, 4), similarity=False)]
    lines = kept.read_text().splitlines()
    assert len(lines) == len(rows)
    pairs = [
        (row["images"], [row["chosen"][0]["content"][s["start"] : s["end"]] for s in row["chosen_sentences"]])
        for row in rows
    ]
    expected = list(scorer.SentenceScorer(str(models / "clip"), device="cpu").score(pairs))
    for line, values in zip(lines, expected, strict=True):
        assert json.loads(line)[1] == pytest.approx(values, abs=1e-6)

    kept.write_text(kept.read_text() + '["half a li')  # a run that was killed while writing

    def unwanted(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(scorer, "SentenceScorer", unwanted)
    second = train(**common, output_dir=str(tmp_path / "second"), overwrite_cache=True)
    assert [entry["loss"] for entry in second] == [entry["loss"] for entry in first]
    assert second[0]["aspo/similarity_mean"] == first[0]["aspo/similarity_mean"]


def test_what_a_kept_similarity_depends_on(tmp_path: Path) -> None:
    from aspo_plugin.training.similarity_cache import row_key

    def key(model: str = "m", text: str = "One. Two.", picture: bytes = b"a", **image: Any) -> str:
        images = [{"bytes": picture, "path": "p", **image}]
        return row_key({"model": model}, (images, [text[:4], text[5:]]))

    (tmp_path / "a.png").write_bytes(b"a")
    same = {key(), key(path="elsewhere"), key(bytes=None, path=str(tmp_path / "a.png"))}
    assert len(same) == 1
    others = {key(model="n"), key(text="One. Ten."), key(picture=b"b"), key(bytes=None, path="missing")}
    assert len(others | same) == 5
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    assert key(bytes=None, path=str(tmp_path / "pipe")) == key(bytes=None, path="missing")


def test_adapter_inputs_are_not_copied_under_mixed_precision(train: Any, monkeypatch: Any) -> None:
    from aspo_plugin.training import step
    from aspo_plugin.training.adapters import keep_input_dtype

    changed = []
    monkeypatch.setattr(step, "keep_input_dtype", lambda model: changed.append(keep_input_dtype(model)))
    log = train(bf16=True, use_cpu=True, max_steps=2)
    assert changed and changed[0] > 0 and all(math.isfinite(entry["loss"]) for entry in log)
