"""The weightings beyond the paper in `stage: aspo`: each changes the run as the method says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aspo_plugin.method.loss import aspo_loss
from tests.support import data

from .conftest import write_sets


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """`both`: rejected responses scored as well, of 2 to 4 sentences; `chosen`: only chosen ones."""
    rows = data.rows(16, 31, sentences=(3, 5))
    bare = [{**row, "rejected_similarity": None} for row in rows]
    return write_sets(tmp_path, {"both": rows, "chosen": bare})


CASES = [
    {"aspo_weighting": "centred"},
    {"aspo_weighting": "centred", "aspo_weight_scale": 1},
    {"aspo_weighting": "centred_bounded"},
    {"aspo_weighting": "given"},
    {"aspo_weighting": "given", "aspo_normalization": "none", "aspo_weight_rejected": True},
    {"aspo_weight_rejected": True},
    {"aspo_weighting": "centred", "aspo_weight_rejected": True},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_each_changes_the_step_as_the_method_says(
    settings: dict[str, Any], train: Any, scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aspo_plugin.training import step

    calls: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def kept(*args: Any, **kwargs: Any) -> Any:
        output = aspo_loss(*args, **kwargs)
        calls.append((args, kwargs, output))
        return output

    monkeypatch.setattr(step, "aspo_loss", kept)
    common = {"dataset_dir": str(scored), "dataset": "both", "max_steps": 2, "aspo_alpha": 1}
    steps = train(**common, **settings)
    args, kwargs, output = calls[-1]
    assert kwargs["weighting"] == settings.get("aspo_weighting", "paper")
    assert kwargs["weight_scale"] == settings.get("aspo_weight_scale", 2.0)
    weighted = settings.get("aspo_weight_rejected", False)
    assert (kwargs["rejected_sentence_ids"] is not None) == weighted
    plain = {"rejected_sentence_ids": None, "rejected_similarity": None}
    paper = aspo_loss(*args, **{**kwargs, **plain, "weighting": "paper"})
    assert not torch.allclose(paper.losses, output.losses, rtol=1e-4)
    assert steps[1]["loss"] == pytest.approx(output.losses.mean().item(), rel=1e-3)
    if weighted:
        ids, similarity = kwargs["rejected_sentence_ids"], kwargs["rejected_similarity"]
        texts = {row["rejected"][0]["content"]: row for row in data.rows(16, 31, sentences=(3, 5))}
        found = sorted([v for v in row.tolist() if v == v] for row in similarity)
        known = [pytest.approx(row["rejected_similarity"]) for row in texts.values()]
        assert all(values in known for values in found)
        assert ((ids >= 0).any(1)).all() and int(ids.max()) == similarity.size(1) - 1
        assert torch.equal(ids != -1, args[1] != 0) or ((ids != -1) >= (args[1] != 0)).all()


def test_rejected_similarities_are_needed_before_a_model_loads(
    train: Any, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aspo_plugin.llamafactory import workflow

    common = {"dataset_dir": str(scored), "max_steps": 1, "tokenized_path": str(tmp_path / "tokenized")}
    train(**common, dataset="both", output_dir=str(tmp_path / "plain"))
    monkeypatch.setattr(workflow, "load_model", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="data tokenized without `aspo_weight_rejected`"):
        train(**common, dataset="both", aspo_weight_rejected=True)
    common.pop("tokenized_path")
    with pytest.raises(ValueError, match="dataset chosen has images but no similarities of its rejected"):
        train(**common, dataset="chosen", aspo_weight_rejected=True)


def test_tokenized_rejected_sentences_weight_nothing_where_the_setting_is_off(
    train: Any, scored: Path, tmp_path: Path
) -> None:
    common = {"dataset_dir": str(scored), "dataset": "both", "tokenized_path": str(tmp_path / "tokenized")}
    weighted = train(**common, aspo_weight_rejected=True, output_dir=str(tmp_path / "weighted"))
    off = train(**common, output_dir=str(tmp_path / "off"))
    plain = train(**{**common, "tokenized_path": None}, output_dir=str(tmp_path / "plain"))
    assert off[1]["rewards/rejected"] == pytest.approx(plain[1]["rewards/rejected"], rel=1e-5)
    assert weighted[1]["rewards/rejected"] != pytest.approx(plain[1]["rewards/rejected"], rel=1e-3)
