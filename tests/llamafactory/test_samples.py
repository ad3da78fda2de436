"""`aspo_log_samples` in `stage: aspo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import data, samples


def test_a_run_keeps_samples_where_it_is_told_to(train: Any, tmp_path: Path) -> None:
    train(aspo_log_samples=3, aspo_alpha=0.3)
    rows = samples.read(tmp_path / "out")
    assert list(samples.pairs(rows)) == [(step, pair) for step in (1, 2) for pair in (0, 1, 2)]
    samples.check(rows, 0.3, data.rows(40, 1, sentences=(3, 5)))
    train(output_dir=str(tmp_path / "none"))
    assert not (tmp_path / "none" / "aspo_samples.jsonl").exists()
