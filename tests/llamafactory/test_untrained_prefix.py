"""A context that both answers begin with is given to the model and not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import data

from .conftest import LOGGED_DIGITS, write_sets
from .test_data import load, same_sentences, sentences_in, told

__all__ = ["load"]

STRADDLING = 8  # characters
NUMBERS = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")


def test_no_token_of_a_context_is_trained(load: Any, tmp_path: Path) -> None:
    rows = data.with_context(data.rows(10, 31, sentences=(2, 4)))
    for row in rows[5:]:
        row["chosen_sentences"] = row["chosen_similarity"] = None  # these are split by the host
    write_sets(tmp_path, {"begun": rows})
    module = load(tmp_path, "begun", aspo_weight_rejected=True)
    tokenizer = module["tokenizer"]
    assert len(module["train_dataset"]) == 10
    for row, source in zip(module["train_dataset"], rows, strict=True):
        length = source["untrained_prefix"]
        for side in ("chosen", "rejected"):
            ids, labels = row[f"{side}_sentence_ids"], row[f"{side}_labels"]
            assert [sentence == -1 for sentence in ids] == [label == -100 for label in labels]
            trained = tokenizer.decode([label for label in labels if label != -100], skip_special_tokens=True)
            text = source[side][0]["content"]
            # A token that straddles the end of the context ("e. The") is trained.
            trained = trained.strip()
            assert text.endswith(trained) and 0 <= len(trained) - len(text[length:].strip()) < STRADDLING
            assert text[:length] in tokenizer.decode(row[f"{side}_input_ids"])
        if source["chosen_sentences"]:
            assert same_sentences(sentences_in(row, tokenizer), told(source))


def test_one_sentence_is_the_hosts_own_dpo_with_the_context_in_its_prompt(train: Any, tmp_path: Path) -> None:
    """A template without turns: the same tokens, whether the context is the prompt's end or the answers'
    beginning."""
    asked, begun = [], []
    for row in data.rows(8, 32, sentences=1, text_only=True):
        # The host tokenizes prompt and answer each for itself, and SentencePiece puts a space before both.
        question, context = "What do you see?", "Seen here:"
        asked.append({**row, "prompt": [{"role": "user", "content": f"{question} {context}"}]})
        made = {**row, "prompt": [{"role": "user", "content": question}], "untrained_prefix": len(context)}
        for side in ("chosen", "rejected"):
            made[side] = [{"role": "assistant", "content": f"{context} {row[side][0]['content']}"}]
            made[f"{side}_sentences"] = None
        begun.append(made)
    write_sets(tmp_path, {"asked": asked, "begun": begun})
    common = {"dataset_dir": str(tmp_path), "template": "empty", "max_steps": 4, "seed": 5}
    dpo = train(stage="dpo", dataset="asked", output_dir=str(tmp_path / "dpo"), **common)
    aspo = train(dataset="begun", output_dir=str(tmp_path / "aspo"), **common)
    for ours, theirs in zip(aspo, dpo, strict=True):
        for name in NUMBERS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=2e-5 + 2 * LOGGED_DIGITS), name
    assert dpo[0]["logps/chosen"] != pytest.approx(dpo[-1]["logps/chosen"], abs=1e-2)
    assert all(entry["aspo/single_sentence_share"] == 1 for entry in aspo)
