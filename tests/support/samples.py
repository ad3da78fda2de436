"""What a file of samples has to say, computed anew from the numbers that stand in it."""

from __future__ import annotations

import json
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pytest

from .oracle import coefficients, min_max


def read(output_dir: Path | str) -> list[dict[str, Any]]:
    path = Path(output_dir) / "aspo_samples.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pairs(rows: list[dict[str, Any]]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """(step, pair) -> its sentences, in the order of the file."""
    return {key: list(group) for key, group in groupby(rows, lambda row: (row["step"], row["pair"]))}


def check(rows: list[dict[str, Any]], alpha: float, answers: list[dict[str, Any]]) -> None:
    """Every pair of `rows` is one of `answers` (of `tests.support.data`), weighted as the method says."""
    known = [(_sentences(answer), answer) for answer in answers]
    for found in pairs(rows).values():
        texts = ["".join(row["text"].split()) for row in found]
        ends = list(accumulate(map(len, texts)))
        raw = [row["similarity"] for row in found]
        [answer] = [
            answer
            for sentences, answer in known
            if "".join(sentences) == "".join(texts)
            # A token over the boundary of two sentences is the first one's.
            and ends == pytest.approx(list(accumulate(map(len, sentences))), abs=5)
            and raw == pytest.approx(answer["chosen_similarity"], abs=1e-6)
        ]
        assert answer["prompt"][0]["content"].removeprefix("<image>").strip() in found[0]["prompt"]
        assert [row["sentence"] for row in found] == list(range(len(found)))
        fit = min_max(dict(enumerate(raw)))
        sure = min_max({k: -row["perplexity"] for k, row in enumerate(found)})
        weights = {k: alpha * fit[k] + (1 - alpha) * sure[k] for k in fit}
        lengths = {k: row["tokens"] for k, row in enumerate(found)}
        ratios = {k: row["log_ratio"] for k, row in enumerate(found)}
        multiplied, _ = coefficients(weights, lengths, ratios, "paper", 2.0, "weight")
        for k, row in enumerate(found):
            assert row["similarity_scaled"] == pytest.approx(fit[k], abs=1e-4)
            assert row["perplexity_scaled"] == pytest.approx(sure[k], abs=2e-3)
            assert row["weight"] == pytest.approx(weights[k], abs=2e-3)
            assert row["coefficient"] == pytest.approx(multiplied[k], abs=2e-3)


def _sentences(answer: dict[str, Any]) -> list[str]:
    text = answer["chosen"][0]["content"]
    return ["".join(text[span["start"] : span["end"]].split()) for span in answer["chosen_sentences"]]
