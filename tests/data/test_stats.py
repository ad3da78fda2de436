"""Statistics against counts made by hand from the rows."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset import schema
from dataset_tools.inspect.stats import NO_SIMILARITY, PARTLY_SCORED, SINGLE, collect, problems_of, table
from tests.support import converted, data


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    made = data.rows(57, sentences=(1, 6))
    made += data.rows(3, seed=1, images_per_prompt=2) + data.rows(2, seed=2, text_only=True)
    made[4]["chosen_similarity"] = None
    made[5]["chosen_similarity"][0] = None
    return made


@pytest.fixture(scope="module")
def out(rows, tmp_path_factory) -> Path:
    return converted.write(tmp_path_factory.mktemp("stats") / "set", [rows[:20], rows[20:]])


def test_counts_are_those_of_the_rows(out, rows):
    found = collect(out)
    lengths = [len(row["chosen_sentences"]) for row in rows]
    assert (found["rows"], found["shards"], found["images"], found["text_only_rows"]) == (62, 2, 63, 2)
    assert found["images_per_row"] == [(0, 2), (1, 57), (2, 3)]
    assert found["single_sentence_chosen"] == lengths.count(1) > 0
    assert found["single_sentence_share"] == lengths.count(1) / 62
    chosen = found["chosen"]
    assert dict(chosen["sentences_per_response"]["histogram"]) == {n: lengths.count(n) for n in set(lengths)}
    texts = [len(row["chosen"][0]["content"]) for row in rows]
    summary = chosen["characters_per_response"]
    assert summary["mean"] == pytest.approx(mean(texts))
    assert (summary["min"], summary["max"]) == (min(texts), max(texts))
    assert summary["median"] == sorted(texts)[30] and summary["p90"] == sorted(texts)[55]


def test_similarities(out, rows):
    found = collect(out)["chosen"]["similarity"]
    stored = np.float32([v for row in rows for v in row["chosen_similarity"] or () if v is not None])
    assert found["scored_sentences"] == len(stored)
    assert found["mean"] == pytest.approx(stored.mean(), abs=1e-6)
    assert (found["min"], found["max"]) == (stored.min(), stored.max())
    assert sum(count for _, count in found["histogram"]) == len(stored)
    for edge, count in found["histogram"]:
        assert count == ((stored >= edge - 1e-6) & (stored < edge + 0.02 - 1e-6)).sum(), edge


def test_problems_are_grouped_with_examples(out, rows):
    problems = collect(out)["problems"]
    single = [row["id"] for row in rows if len(row["chosen_sentences"]) == 1]
    assert problems[SINGLE] == {"rows": len(single), "examples": single[:5]}
    assert problems[NO_SIMILARITY]["examples"] == [rows[4]["id"]]
    assert problems[PARTLY_SCORED]["examples"] == [rows[5]["id"]]
    broken = {**rows[10], "chosen_sentences": [{"start": 0, "end": 99999}]}
    other = {**rows[11], "chosen_sentences": [{"start": 0, "end": 88888}]}
    assert problems_of(broken)[0] == problems_of(other)[0] == "chosen_sentences"


def test_the_images_bytes_are_not_read(out, monkeypatch):
    read, batches = [], schema.iter_batches

    def spy(path, columns=None, batch_size=64):
        for batch in batches(path, columns, batch_size):
            read.append(batch.schema.field("images").type.value_type)
            yield batch

    monkeypatch.setattr("dataset_tools.inspect.stats.iter_batches", spy)
    collect(out)
    assert read and all([field.name for field in kind] == ["path"] for kind in read)


def test_the_command_prints_a_table_json_and_a_picture(out, rows, tmp_path):
    picture = tmp_path / "stats.png"
    result = CliRunner().invoke(app, ["stats", str(out), "--picture", str(picture), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(json.dumps(collect(out)))
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    for colour in ((46, 125, 80), (196, 77, 60)):
        assert (pixels == colour).all(axis=1).sum() > 5000, "no bars drawn"
    text = CliRunner().invoke(app, ["stats", str(out)]).stdout
    assert f"such as id {rows[5]['id']!r}" in text
    assert "62 rows in 2 files, 63 images, 2 rows without an image" in text and "train as plain DPO" in text
    wrong = CliRunner().invoke(app, ["stats", str(out), "--picture", "stats.jpg"])
    assert wrong.exit_code == 2 and "stats.svg or stats.png" in wrong.stderr


def test_the_drawing_has_axes_and_bars_of_the_right_height(out, rows, tmp_path):
    from xml.etree import ElementTree

    from dataset_tools.inspect.chart import draw

    draw(collect(out), tmp_path / "stats.svg")
    root = ElementTree.parse(tmp_path / "stats.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    for title in (
        "Sentences per response",
        "sentences",
        "responses",
        "cosine",
        "characters",
        "% of the rows",
    ):
        assert title in texts
    assert "prefers-color-scheme: dark" in (tmp_path / "stats.svg").read_text()
    lengths = [len(row["chosen_sentences"]) for row in rows]
    bars = [
        float(bar.get("height"))
        for bar in root.iter(f"{space}rect")
        if bar.get("class") == "chosen" and float(bar.get("x")) < 700 and 160 <= float(bar.get("y")) <= 440
    ]
    counts = [lengths.count(number) for number in range(1, 7)]
    most = max(counts + [sum(len(row["rejected_sentences"]) == n for row in rows) for n in range(1, 7)])
    assert bars == pytest.approx([280 * count / most for count in counts], abs=0.1)


def test_ticks_are_round_and_the_empty_range_is_cut():
    from dataset_tools.inspect.chart import ticks

    assert ticks(0.1, 0.36) == [0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
    assert ticks(0, 389, 5) == [0, 100, 200, 300]
    assert ticks(0.5, 9.5) == [2, 4, 6, 8]
    for low, high in ((0, 1), (-0.2, 0.31), (3, 4000), (0, 1e-9)):
        found = ticks(low, high)
        assert all(low - 1e-9 <= mark <= high + 1e-9 for mark in found) and len(found) <= 7


def test_empty_bins_between_are_shown(out):
    found = collect(out)
    found["chosen"]["similarity"]["histogram"] = [[0.1, 5], [0.16, 2]]
    lines = [line.split() for line in table(found).splitlines() if line.startswith(" 0.1")]
    assert [line[0] for line in lines[:4]] == ["0.10", "0.12", "0.14", "0.16"]
    assert [line[-1] for line in lines[:4]] == ["5", "0", "0", "2"]


def test_an_unscored_and_an_empty_dataset(tmp_path):
    from dataset_tools.inspect.chart import draw

    unscored = converted.write(tmp_path / "a", [data.rows(3, similarity=False)])
    found = collect(unscored)
    assert found["chosen"]["similarity"] is None and "not scored" in table(found)
    draw(found, tmp_path / "a.png")
    scored = converted.write(tmp_path / "c", [data.rows(3)], scorer={"model": "clip", "counts": {}})
    for folder, step in ((unscored, "score"), (scored, "preview")):
        told = CliRunner().invoke(app, ["stats", str(folder)])
        assert told.stderr.splitlines()[-1].startswith(f"next: aspo-data {step} {folder} ")
    empty = collect(converted.write(tmp_path / "b", [[]]))
    assert empty["rows"] == 0 and "none" in table(empty)
    draw(empty, tmp_path / "b.png")
