"""`validate` finds each broken invariant and names the row; `export` writes what the hosts read."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.dataset.record import read_record, write_record
from dataset_tools.dataset.schema import arrow_schema, iter_rows, shards
from dataset_tools.errors import UsageError
from dataset_tools.inspect.preview import write_preview
from dataset_tools.inspect.stats import collect
from dataset_tools.inspect.validate import validate
from dataset_tools.share.export import export, typed, with_markers
from tests.support.sources import BUILDERS, jpeg, llamafactory, rlaif_v


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validate")
    rlaif_v(folder / "source", rows=12, defects=False)
    Conversion(Settings(str(folder / "source"), folder / "out", shard_rows=6)).run()
    return folder / "out"


def altered(converted: Path, folder: Path, change) -> Path:
    """A copy whose third row is changed by `change(row)`."""
    (folder / "data").mkdir(parents=True)
    for name in ("aspo.json", "dataset_info.json"):
        (folder / name).write_bytes((converted / name).read_bytes())
    for index, path in enumerate(shards(converted)):
        rows = pq.read_table(path).to_pylist()
        if index == 0:
            change(rows[2])
        pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema()), folder / "data" / path.name)
    return folder


def test_a_converted_dataset_is_valid(converted):
    for workers in (1, 2):
        report = validate(converted, workers=workers)
        assert (report.rows, report.total, report.problems) == (12, 0, [])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda row: row.update(id="0"), "duplicate id"),
        (lambda row: row["chosen_sentences"].pop(), "belongs to no sentence"),
        (lambda row: row.update(chosen_similarity=[0.1]), "chosen_similarity has 1 values"),
        (lambda row: row.update(rejected=row["chosen"]), "chosen equals rejected"),
        (lambda row: row["images"][0].update(bytes=b"GIF89a"), "image 0 cannot be decoded"),
        (lambda row: row["images"][0].update(bytes=jpeg(1, 64)[:-300]), "image 0 cannot be decoded"),
        (lambda row: row["images"][0].update(bytes=None), "image 0 has no bytes"),
        (lambda row: row["prompt"][0].update(content="<image><image> Q?"), "2 literal <image> markers"),
        (lambda row: row.update(untrained_prefix=5), "do not begin with the same 5 characters"),
        (lambda row: row.update(untrained_prefix=-1), "do not begin with the same -1 characters"),
        (
            lambda row: row.update(untrained_prefix=1),
            "chosen_sentences: sentence 0 starts at 0, before the end 1",
        ),
    ],
)
def test_a_broken_row_is_named(change, problem, converted, tmp_path):
    report = validate(altered(converted, tmp_path / "bad", change))
    named = [item for item in report.problems if problem in item.problem]
    assert len(named) == 1
    assert (named[0].row, named[0].file) == (2, "data/train-00000-of-00002.parquet")
    assert named[0].id == ("0" if problem == "duplicate id" else "2")


def test_problems_of_files_are_named(converted, tmp_path):
    folder = altered(converted, tmp_path / "bad", lambda row: None)
    first, second = shards(folder)
    pq.write_table(pq.read_table(first).drop_columns(["chosen_sentences"]), first)
    second.write_bytes(second.read_bytes()[:-20])
    (folder / "dataset_info.json").unlink()
    text = "\n".join(map(str, validate(folder).problems))
    assert "data/train-00000-of-00002.parquet: no column chosen_sentences" in text
    assert "data/train-00001-of-00002.parquet: not a readable parquet file" in text
    assert "dataset_info.json: missing" in text
    assert "0 rows, but aspo.json says 12" in text


def test_only_the_asked_number_of_problems_is_kept_but_all_are_counted(converted, tmp_path):
    folder = altered(converted, tmp_path / "bad", lambda row: row.update(chosen_sentences=[], id=""))
    report = validate(folder, keep=1)
    assert len(report.problems) == 1 and report.total == 2


def test_a_folder_that_is_no_converted_dataset_is_refused(tmp_path):
    with pytest.raises(UsageError, match="aspo.json, so it is not a dataset that `aspo-data convert` made"):
        validate(tmp_path)


def test_an_untrained_prefix_is_valid_and_exported_with_its_answers(converted, tmp_path):
    fixture = BUILDERS["sentinel"](tmp_path / "source")
    out = tmp_path / "out"
    Conversion(Settings(str(fixture.path), out, **fixture.settings)).run()
    rows = list(iter_rows(out))
    assert [row["untrained_prefix"] for row in rows] == [19, 0] and validate(out).total == 0
    for layout, file in (("llamafactory", "data.jsonl"), ("trl", "train.parquet")):
        assert export(out, tmp_path / layout, layout) == 2
        assert (tmp_path / layout / file).exists()
    first = json.loads((tmp_path / "llamafactory" / "data.jsonl").read_text().splitlines()[0])
    assert first["chosen"]["value"] == rows[0]["chosen"][0]["content"]
    assert list(collect(out)["problems"]) == ["has an image, but no similarities"]
    write_preview(out, tmp_path / "page.html")
    assert '"untrained": 19' in (tmp_path / "page.html").read_text()
    older = altered(converted, tmp_path / "older", lambda row: None)
    for path in shards(older):  # as sets are that were made before the column was
        pq.write_table(pq.read_table(path).drop_columns(["untrained_prefix"]), path)
    assert validate(older).total == 0 and collect(older)["rows"] == 12
    assert write_preview(older, tmp_path / "older.html")["rows"] == 12
    assert export(older, tmp_path / "plain", "trl") == 12


def test_export_for_llamafactory_keeps_texts_markers_and_image_bytes(tmp_path):
    llamafactory(tmp_path / "source")
    Conversion(Settings(str(tmp_path / "source"), tmp_path / "out")).run()
    assert export(tmp_path / "out", tmp_path / "plain", "llamafactory") == 5
    rows = list(iter_rows(tmp_path / "out"))
    lines = [json.loads(line) for line in (tmp_path / "plain" / "data.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert [turn["from"] for turn in line["conversations"]][::2] == ["human"] * (
            (len(row["prompt"]) + 1) // 2
        )
        markers = sum(turn["value"].count("<image>") for turn in line["conversations"])
        assert markers == len(line["images"]) == len(row["images"])
        for name, image in zip(line["images"], row["images"], strict=True):
            assert (tmp_path / "plain" / name).read_bytes() == image["bytes"]
        assert line["chosen"] == {"from": "gpt", "value": row["chosen"][0]["content"]}
    info = json.loads((tmp_path / "plain" / "dataset_info.json").read_text())["train"]
    assert info["formatting"] == "sharegpt" and info["ranking"] is True

    # What was exported is a source again, with the same rows.
    Conversion(Settings(str(tmp_path / "plain" / "data.jsonl"), tmp_path / "again")).run()
    for row, again in zip(rows, iter_rows(tmp_path / "again"), strict=True):
        assert again["source"] == "data.jsonl"  # nothing says where its rows were from before
        assert {
            **again,
            "source": row["source"],
            "images": [image["bytes"] for image in again["images"]],
        } == {
            **row,
            "images": [image["bytes"] for image in row["images"]],
        }


def test_export_for_trl_keeps_the_places_of_images(tmp_path):
    llamafactory(tmp_path / "source")
    Conversion(Settings(str(tmp_path / "source"), tmp_path / "out")).run()
    export(tmp_path / "out", tmp_path / "plain", "trl")
    rows = pq.read_table(tmp_path / "plain" / "train.parquet").to_pylist()
    kinds = [[part["type"] for part in row["prompt"][0]["content"]] for row in rows]
    assert kinds == [["image", "text"]] * 3 + [["text", "image", "text", "image", "text"], ["text"]]
    Conversion(Settings(str(tmp_path / "plain"), tmp_path / "again", kind="trl")).run()
    for row, again in zip(iter_rows(tmp_path / "out"), iter_rows(tmp_path / "again"), strict=True):
        assert (again["prompt"], again["images"]) == (row["prompt"], row["images"])


def test_export_refuses_what_exists(converted, tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        export(converted, tmp_path, "trl")


def test_markers_and_parts_are_each_others_inverse():
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "Q?"}]
    marked = with_markers(prompt, 2)
    assert marked[1]["content"] == "<image>\n<image>\nQ?"
    assert with_markers(marked, 2) == marked and with_markers(prompt, 0) == prompt
    parts = typed(marked)[1]["content"]
    assert [part["type"] for part in parts] == ["image", "image", "text"] and parts[2]["text"] == "Q?"


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (("clip", None), "1 of 2 shards"),
        (("clip", "siglip"), "are scored by 2 models"),
        (("clip", "clip"), "2 of 2 shards"),  # by a run that ended before it noted its model
        ((None, None), None),
    ],
)
def test_half_scored_or_by_two_models_is_a_problem_and_not_pushed(models, problem, converted, tmp_path):
    from dataset_tools.scoring.scored import SCORER_KEY
    from dataset_tools.share.hub import plan

    folder = altered(converted, tmp_path / "set", lambda row: None)
    for path, model in zip(shards(folder), models, strict=True):
        table = pq.read_table(path)
        state = {SCORER_KEY: json.dumps({"model": model}).encode()} if model else {}
        pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **state}), path)
    found = [each.problem for each in validate(folder).problems]
    assert len(found) == bool(problem) and all(problem in each for each in found)
    with pytest.raises(UsageError, match=problem) if problem else nullcontext():
        plan(folder, "me/set")
    # An export has no similarities, so it lacks nothing.
    assert export(folder, tmp_path / "plain", "trl") == len(list(iter_rows(folder)))
    write_record(folder, {**read_record(folder), "scorer": {"model": "clip"}})
    named = [each.problem for each in validate(folder).problems]
    assert len(named) == (models == ("clip", "siglip"))


def test_the_folder_of_a_page_is_made(converted, tmp_path):
    from typer.testing import CliRunner

    from dataset_tools.cli import app

    page = tmp_path / "new" / "page.html"
    done = CliRunner().invoke(app, ["preview", str(converted), "--html", str(page)])
    assert done.exit_code == 0 and page.is_file(), done.output
    chart = tmp_path / "newer" / "chart.svg"
    done = CliRunner().invoke(app, ["stats", str(converted), "--picture", str(chart)])
    assert done.exit_code == 0 and chart.is_file(), done.output
    done = CliRunner().invoke(app, ["preview", str(converted), "--html", str(tmp_path)])
    assert done.exit_code == 2 and done.stderr == f"error: {tmp_path} is a folder: name the file to write.\n"
