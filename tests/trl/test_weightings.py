"""The weightings beyond the paper in TRL's trainer, which is Axolotl's too: each changes the loss."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_plugin.config import AspoSettings
from aspo_plugin.method.loss import aspo_loss
from aspo_plugin.trl import AspoConfig, AspoTrainer, prepare_dataset
from aspo_plugin.trl.datasets import refuse_plain_dpo
from tests.support import data

from .conftest import as_dataset

CASES = [
    {"aspo_weighting": "centred"},
    {"aspo_weighting": "centred", "aspo_weight_scale": 1},
    {"aspo_weighting": "centred_bounded"},
    {"aspo_weighting": "given"},
    {"aspo_weighting": "given", "aspo_normalization": "none", "aspo_weight_rejected": True},
    {"aspo_weight_rejected": True},
]


def trainer(folder: Path, model: Any, rows: Any, **settings: Any) -> Any:
    args = AspoConfig(
        str(folder), bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False, **settings
    )
    return AspoTrainer(str(model), args=args, train_dataset=rows)


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_each_changes_the_loss_as_the_method_says(
    settings: dict[str, Any], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aspo_plugin.training import step

    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def kept(*args: Any, **kwargs: Any) -> Any:
        # As after some steps: the policy has moved from the reference.
        moved = (args[0] - 0.1 * torch.rand_like(args[0]) * (args[0] != 0), *args[1:])
        output = aspo_loss(*moved, **kwargs)
        calls.append((moved, kwargs, output))
        return output

    monkeypatch.setattr(step, "aspo_loss", kept)
    rows = as_dataset(data.rows(3, 31, sentences=(3, 5)))
    made = trainer(tmp_path / "out", model("llava"), rows, aspo_alpha=1.0, **settings)
    batch = made.data_collator([made.train_dataset[index] for index in range(3)])
    loss = made.compute_loss(made.model, made._prepare_inputs(dict(batch)))
    args, kwargs, output = calls[-1]
    assert float(loss) == pytest.approx(float(output.losses.mean()))
    plain = {"rejected_sentence_ids": None, "rejected_similarity": None}
    paper = aspo_loss(*args, **{**kwargs, **plain, "weighting": "paper"})
    assert kwargs["weighting"] == settings.get("aspo_weighting", "paper")
    assert kwargs["weight_scale"] == settings.get("aspo_weight_scale", 2.0)
    if settings.get("aspo_weight_rejected"):
        ids, mask = batch["rejected_sentence_ids"], batch["completion_mask"][3:].bool()
        assert torch.equal(ids != -1, mask)
        for row, found in zip(data.rows(3, 31, sentences=(3, 5)), batch["rejected_similarity"], strict=True):
            assert found[found == found].tolist() == pytest.approx(row["rejected_similarity"])
        assert paper.rejected_rewards.tolist() == pytest.approx(output.rejected_rewards.tolist())  # all 0 ...
        raised = aspo_loss(
            *args[:1], args[1] + 0.3 * torch.rand_like(args[1]) * (args[1] != 0), *args[2:], **kwargs
        )
        assert not torch.allclose(
            raised.rejected_rewards, paper.rejected_rewards
        )  # ... until the policy moves
    else:
        assert not torch.allclose(paper.losses, output.losses, rtol=1e-4)


def test_rejected_similarities_are_needed(processing: Any) -> None:
    llava = processing("llava")
    rows = [{**row, "rejected_similarity": None} for row in data.rows(2, 31, sentences=(3, 5))]
    with pytest.raises(ValueError, match="`aspo_weight_rejected` weights them: score it with"):
        prepare_dataset(as_dataset(rows), llava, alpha=0.5, weight_rejected=True)
    plain = prepare_dataset(as_dataset(data.rows(2, 31, sentences=(3, 5))), llava, alpha=0.5)
    assert "rejected_sentence_ids" not in plain.column_names
    with pytest.raises(ValueError, match="prepared without `aspo_weight_rejected`"):
        prepare_dataset(plain, llava, alpha=0.5, weight_rejected=True)
    cut = data.rows(1, 31, sentences=(3, 5))
    cut[0]["rejected_similarity"] = cut[0]["rejected_similarity"][:-1]
    with pytest.raises(ValueError, match="rejected_similarity has . values for . sentences"):
        prepare_dataset(as_dataset(cut), llava, alpha=0.5, weight_rejected=True)


def test_given_weights_that_the_data_lacks_are_told_in_their_own_words(processing: Any) -> None:
    """Neither a scorer nor a lower alpha, which the weighting refuses, is offered for them."""
    llava = processing("llava")
    told = "has no number for a sentence of its {} answers.*`aspo_weighting` is given.*Weights of your own"
    rows = data.rows(2, 31, sentences=(3, 5))
    for side in ("chosen", "rejected"):
        without = as_dataset([{**row, f"{side}_similarity": None} for row in rows])
        with pytest.raises(ValueError, match=told.format(side)) as error:
            prepare_dataset(without, llava, alpha=1.0, weight_rejected=True, given=True)
        assert not re.search("similarity_model|alpha|aspo-data score", str(error.value))
    for row in (texts := data.rows(2, 31, sentences=(3, 5), text_only=True)):
        row |= {
            f"{side}_similarity": [0.5] * len(row[f"{side}_sentences"]) for side in ("chosen", "rejected")
        }
    settings = AspoSettings(alpha=1.0, weighting="given", weight_rejected=True)
    for side in ("chosen", "rejected"):
        lacking = as_dataset([{**row, f"{side}_similarity": None} for row in texts])
        prepared = prepare_dataset(lacking, llava, alpha=1.0, weight_rejected=True, given=True)
        with pytest.raises(ValueError, match=told.format(side)):
            refuse_plain_dpo(prepared, settings, "aspo_{}")
    whole = prepare_dataset(as_dataset(texts), llava, alpha=1.0, weight_rejected=True, given=True)
    refuse_plain_dpo(whole, settings, "aspo_{}")
