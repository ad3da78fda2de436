"""What a later run reads back of an earlier one, and what it must not."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoModelForImageTextToText

from aspo_plugin.trl.datasets import prepare_dataset
from aspo_plugin.trl.rows import LengthLimit
from tests.support import data

from .test_cache import run


def test_another_length_limit_prepares_anew(processing: Any, tmp_path: Any) -> None:
    """Prepared rows are kept on disk by what they depend on; the limit is a part of that."""
    folder = data.write_converted(tmp_path / "set", data.rows(4, sentences=(3, 4)))
    cache = str(tmp_path / "cache")

    def longest(limit: int | None) -> int:
        dataset = load_dataset(str(folder), split="train", cache_dir=cache)
        prepared = prepare_dataset(dataset, processing("llava"), alpha=0.5, limit=LengthLimit(limit))
        return max(
            len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in prepared
        )

    whole = longest(None)
    assert longest(whole - 20) < whole
    assert longest(None) == whole


def test_a_given_reference_fills_the_cache_and_leaves_the_memory(model: Any, tmp_path: Any) -> None:
    """Log-probs are the given model's, and once they are on disk nothing holds it."""
    other = AutoModelForImageTextToText.from_pretrained(model("llava"))
    for parameter in other.get_output_embeddings().parameters():
        parameter.data *= 1.5
    _, live = run(model("llava"), tmp_path, "live", ref_model=other)
    cache = str(tmp_path / "reference")
    trainer, cached = run(model("llava"), tmp_path, "cached", ref_model=other, aspo_reference_cache=cache)
    assert trainer.ref_model is None
    assert [log["loss"] for log in cached] == pytest.approx([log["loss"] for log in live], abs=2e-5)
    assert live[0]["rewards/margins"] != pytest.approx(0, abs=1e-4)  # it is not the policy itself
