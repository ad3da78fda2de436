"""Two runs that score one set at the same time both go on, and leave one file of whole lines."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Image, List

from aspo_plugin.trl.similarity import dataset_scorer
from tests.support import data

from .conftest import as_dataset


def test_two_runs_score_one_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataset_tools.scoring import scorer

    together = threading.Barrier(2, timeout=60)

    class Both:
        """A scorer in whose middle the other run is, too."""

        def __init__(self, model: str, **options: Any) -> None:
            together.wait()

        def score(self, rows: Any) -> Any:
            return [[0.25] * len(sentences) for _, sentences in list(rows)]

    monkeypatch.setattr(scorer, "SentenceScorer", Both)
    monkeypatch.setattr(scorer, "identify", lambda model: SimpleNamespace(as_dict=lambda: {"model": model}))
    rows = as_dataset(data.rows(4, 3, similarity=False)).cast_column("images", List(Image(decode=False)))
    found: list[Any] = []
    runs = [
        threading.Thread(target=lambda: found.append(dataset_scorer("clip", tmp_path)(rows)))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(found) == 2 and found[0]["chosen_similarity"] == found[1]["chosen_similarity"]
    [kept] = (tmp_path / "aspo_similarity").iterdir()
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(lines) == 8 and len({key for key, _ in lines}) == 4
