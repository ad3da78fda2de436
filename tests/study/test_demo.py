"""The demo's data and page; its training is `test_host.py`'s."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.__main__ import step_of, weighted
from demo.data import with_random_similarities
from demo.page import write_page
from study.pairs import load, seva
from study.scenes import Thing, draw
from study.sentences import HABIT, text
from study.teach import TAUGHT

SCENE = (Thing(0, 0, "large", "blue", "circle"), Thing(0, 3, "small", "blue", "cross"))


def test_the_page_marks_what_is_false(tmp_path: Path) -> None:
    picture = draw(SCENE, np.random.default_rng(0))
    answer = "There is a large blue circle. I see a <b>red</b> ring."
    rows = [
        {"name": "DPO", "false sentences, %": "40.0"},
        {"name": "ASPO, alpha 1", "false sentences, %": "20.0"},
    ]
    weights = {"alpha 1": [1.0, -0.0], "alpha 0": [0.25, 1.0]}
    write_page(
        tmp_path / "page.html", rows, [(picture, SCENE, {"DPO": answer})], [(picture, SCENE, answer, weights)]
    )
    page = (tmp_path / "page.html").read_text()
    body = page.partition("</style>")[2]
    false = set(re.findall(r'<span class="?false"?>(.*?)</span>', body))
    assert false == {"false", "I see a &lt;b&gt;red&lt;/b&gt; ring."}
    assert "1 of 2 false" in body and "<li>There is a large blue circle.</li>" in body
    assert re.findall(r"--w:(\d+)%", body) == ["100", "25", "0", "100"] and "-0.00" not in body
    assert re.findall(r'<i style="width:([\d.]+)%', body) == ["100.0", "50.0"]
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "url(" not in page


def test_weighted_answers_hold_the_habit_falsely() -> None:
    world = load(TAUGHT)
    found = weighted(world, seva(world, 32, seed=1))
    assert found
    for _, things, answer, weights in found:
        assert text(HABIT) in answer and not any(t.colour == "red" and t.shape == "circle" for t in things)
        assert list(weights) == ["alpha 1", "alpha 0.5", "alpha 0"]


def test_the_control_changes_only_the_similarities(tmp_path: Path) -> None:
    (tmp_path / "set" / "data").mkdir(parents=True)
    similarity = pa.array([[0.1, 0.2], None, [0.3]], pa.list_(pa.float32()))
    table = pa.table({"id": ["a", "b", "c"], "chosen_similarity": similarity})
    pq.write_table(table, tmp_path / "set" / "data" / "train-00000.parquet")
    with_random_similarities(tmp_path / "set", tmp_path / "random", seed=1)
    found = pq.read_table(tmp_path / "random" / "data" / "train-00000.parquet")
    assert found.schema == table.schema and found["id"] == table["id"]
    values = found["chosen_similarity"].to_pylist()
    assert [row and len(row) for row in values] == [2, None, 1]
    assert values[0] != similarity[0].as_py() and all(0 <= value <= 1 for value in values[0])


def test_progress_is_the_hosts_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.__main__.folder_of", lambda name: tmp_path / name)
    assert step_of("DPO") == "starting"
    (tmp_path / "DPO").mkdir()
    log = '{"current_steps": 4, "total_steps": 32}\n{"current_steps": 8, "total_steps": 32}\n{"curr'
    (tmp_path / "DPO" / "trainer_log.jsonl").write_text(log)
    assert step_of("DPO") == "step 8 of 32"
