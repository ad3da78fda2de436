"""The line at the start of a run: who writes it, what it counts, and when it warns."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, Features, IterableDataset, Value

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.start import StartLine, sentence_counts

IDS = [[-1, -1, 0, 0, 1, -1, 2], [0, 0], [-1, 0], [], [-1], [3, 3, 4], [0, 1]]


def dataset(rows: list[list[int]]) -> Dataset:
    return Dataset.from_dict({"ids": rows}, Features({"ids": [Value("int32")]}))


def told(capsys: Any, folder: Any, rows: Any, main: bool = True, scorers: Any = (), **settings: Any) -> str:
    model = SimpleNamespace(config=SimpleNamespace(_name_or_path="some/model"))
    trainer = SimpleNamespace(train_dataset=rows, add_callback=lambda callback: None, model=model)
    line = StartLine(trainer, AspoSettings(**settings), "ids", list(scorers))
    state = SimpleNamespace(is_world_process_zero=main)
    line.on_train_begin(SimpleNamespace(output_dir=str(folder)), state, None)
    return capsys.readouterr().err


def test_sentences_are_counted_from_the_ids_of_tokens():
    assert sentence_counts(dataset(IDS), "ids") == [len({i for i in ids if i >= 0}) for ids in IDS]
    assert sentence_counts(dataset(IDS).select([6, 0, 1]), "ids") == [2, 3, 1]
    many = IDS * 2000  # more than are read at once
    assert sentence_counts(dataset(many), "ids") == [len({i for i in ids if i >= 0}) for ids in many]


def test_one_process_tells_settings_scorer_sentences_and_refused_rows(capsys, tmp_path):
    records = [{"split": "train", "reason": "empty", "row": row} for row in range(3)]
    (tmp_path / "aspo_rejected.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert told(capsys, tmp_path, dataset(IDS[:3]), main=False) == ""
    line = told(capsys, tmp_path, dataset(IDS[:3]), scorers=["a/clip", "b/clip"], alpha=0.25)
    assert line == (
        "ASPO: alpha 0.25, normalization weight; similarities by a/clip, b/clip; 3 pairs with 5 sentences, "
        f"67% of one sentence only; 3 rows refused, listed in {tmp_path / 'aspo_rejected.jsonl'}.\n"
    )
    record = json.loads((tmp_path / "aspo_run.json").read_text())
    assert record["settings"] == asdict(AspoSettings(alpha=0.25))
    assert (record["model"], record["scorers"]) == ("some/model", ["a/clip", "b/clip"])
    assert "; by perplexity alone; " in told(capsys, tmp_path, dataset(IDS), alpha=0.0)
    line = told(capsys, tmp_path, dataset(IDS), weighting="centred", weight_rejected=True)
    assert ", weighting centred, rejected answers weighted too; similarities of the dataset; " in line
    stream = IterableDataset.from_generator(lambda: ({"ids": ids} for ids in IDS * 100))
    assert "a streamed set, whose first 64 pairs have " in told(capsys, tmp_path, stream)


@pytest.mark.parametrize(("rows", "warns"), [([[0], [0], [0, 1]], True), ([[0], [0, 1]], False)])
def test_a_set_of_mostly_single_sentences_is_a_warning(rows, warns, capsys, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        told(capsys, tmp_path, dataset(rows))
    assert ("67% of the chosen answers have one sentence" in caplog.text) == warns
    assert bool(caplog.records) == warns


def test_given_weights_are_told_as_what_they_are(capsys, tmp_path, caplog):
    """Numbers as they are weight single sentences, too; a scorer that is on record may have been replaced."""
    given = {"alpha": 1.0, "weighting": "given"}
    line = told(capsys, tmp_path, dataset(IDS), **given)
    assert "; the weights are the dataset's similarities as they are; " in line
    line = told(capsys, tmp_path, dataset(IDS), scorers=["a/clip"], **given)
    assert "as they are (where they are still the cosines by a/clip, nearly equal: nearly DPO); " in line
    with caplog.at_level(logging.WARNING):
        told(capsys, tmp_path, dataset([[0], [0], [0]]), **given, normalization="none")
        assert not caplog.records
        told(capsys, tmp_path, dataset([[0], [0], [0]]), **given)
        assert len(caplog.records) == 1
