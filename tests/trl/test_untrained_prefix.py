"""A context that both answers begin with is given to the model and not trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_plugin.trl.datasets import prepare_dataset
from aspo_plugin.trl.rows import LengthLimit
from tests.support import data

from .conftest import as_dataset
from .test_trainer import COMMON, NUMBERS, log_of, run

__all__ = ["run"]
STRADDLING = 8  # characters


@pytest.mark.parametrize("name", ["llava", "paligemma"])
def test_no_token_of_a_context_is_trained(name: str, processing: Any) -> None:
    from aspo_plugin.trl.collator import AspoVisionCollator

    processor = processing(name)
    rows = data.with_context(data.rows(5, 31, sentences=(2, 4)))
    prepared = prepare_dataset(as_dataset(rows), processor, alpha=0.5, weight_rejected=True)
    batch = AspoVisionCollator(processor, weight_rejected=True)(list(prepared))
    ids = torch.cat([batch["sentence_ids"], batch["rejected_sentence_ids"]])
    assert torch.equal(batch["completion_mask"].bool(), ids != -1)
    for index, (tokens, mask) in enumerate(
        zip(batch["input_ids"], batch["completion_mask"].bool(), strict=True)
    ):
        source, side = rows[index % 5], ("chosen", "rejected")[index // 5]
        text, length = source[side][0]["content"], source["untrained_prefix"]
        trained = processor.tokenizer.decode(tokens[mask], skip_special_tokens=True).strip()
        # A token that straddles the end of the context ("e. The") is trained.
        assert text.endswith(trained) and 0 <= len(trained) - len(text[length:].strip()) < STRADDLING
        assert text[:length] in processor.tokenizer.decode(tokens)
    texts = as_dataset([{**rows[0], "images": []}])
    prompt = len(prepare_dataset(texts, processor, alpha=0)[0]["prompt_ids"])
    with pytest.raises(ValueError, match="hold no text of the chosen response"):
        prepare_dataset(texts, processor, alpha=0, limit=LengthLimit(prompt + 2))
    differing = [{**rows[0], "untrained_prefix": len(rows[0]["chosen"][0]["content"])}]
    with pytest.raises(ValueError, match="1 × its untrained prefix is not what both responses begin with"):
        prepare_dataset(as_dataset(differing), processor, alpha=0)


def test_one_sentence_is_trls_own_dpo_with_the_context_in_its_prompt(
    run: Any, model: Any, tmp_path: Path
) -> None:
    """Plain texts: the same tokens, whether the context is the prompt's end or the answers' beginning."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    asked, begun = [], []
    for row in data.rows(8, 32, sentences=1, text_only=True):
        texts = {name: row[name][0]["content"] for name in ("prompt", "chosen", "rejected")}
        question, context = f"{texts['prompt']}\n", "The picture shows this:\n"
        asked.append({**texts, "prompt": question + context})
        answers = {side: context + texts[side] for side in ("chosen", "rejected")}
        begun.append({"prompt": question, **answers, "untrained_prefix": len(context)})
    args = DPOConfig(str(tmp_path / "dpo"), **COMMON)
    dpo = log_of(DPOTrainer(str(model("text")), args=args, train_dataset=Dataset.from_list(asked)))
    aspo = log_of(_trainer(model("text"), Dataset.from_list(begun), tmp_path))
    for step, (ours, theirs) in enumerate(zip(aspo, dpo, strict=True)):
        for number in NUMBERS:
            assert ours[number] == pytest.approx(theirs[number], rel=5e-5, abs=2e-5), (step, number)
    assert max(entry["loss"] for entry in dpo) - min(entry["loss"] for entry in dpo) > 1e-2


def _trainer(folder: Path, rows: Any, tmp_path: Path) -> Any:
    from aspo_plugin.trl import AspoConfig, AspoTrainer

    return AspoTrainer(str(folder), args=AspoConfig(str(tmp_path / "aspo"), **COMMON), train_dataset=rows)


def test_a_context_behind_a_picture_cancels_as_in_trls_dpo(run: Any, model: Any, tmp_path: Path) -> None:
    """TRL trains the whole answers: the loss is the same, the log-probs differ by those of the context."""
    from trl import DPOConfig, DPOTrainer

    rows = data.with_context(data.rows(8, 33, sentences=1))
    pairs = as_dataset(rows).select_columns(["prompt", "chosen", "rejected", "images"])
    args = DPOConfig(str(tmp_path / "dpo"), **COMMON)
    dpo = log_of(DPOTrainer(str(model("qwen2_vl")), args=args, train_dataset=pairs))
    aspo = run(rows, "qwen2_vl")
    for step, (ours, theirs) in enumerate(zip(aspo, dpo, strict=True)):
        for number in ("loss", "grad_norm", "rewards/margins"):
            assert ours[number] == pytest.approx(theirs[number], rel=2e-4, abs=5e-5), (step, number)
        context = [ours[name] - theirs[name] for name in ("logps/chosen", "logps/rejected")]
        assert context[0] == pytest.approx(context[1], rel=1e-4) and context[0] > 10
