"""What a study keeps of its runs, also where it was stopped in the middle of a line."""

from __future__ import annotations

from pathlib import Path

from study.runs import done, job, keep, key


def test_a_run_behind_a_line_that_was_cut_off_is_kept(tmp_path: Path) -> None:
    first, second = (job(1, "seva", seed, "dpo", "test") for seed in (0, 1))
    path = tmp_path / "runs.jsonl"
    keep(path, first)
    with path.open("a") as file:
        file.write('{"world": 1, "sou')
    keep(path, second)
    keep(path, {**first, "seed": 2})
    assert list(done(path)) == [key({**first, "seed": seed}) for seed in (0, 1, 2)]
    assert len(path.read_text().splitlines()) == 4
