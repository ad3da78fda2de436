"""`aspo-data make`: one file, several sources, every step once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset.schema import count_rows, iter_rows
from tests.support.sources import rlaif_v


def run(*arguments: object, code: int = 0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rlaif_v(tmp_path / "a", rows=12, defects=False)
    rlaif_v(tmp_path / "b", rows=6, defects=False)
    path = tmp_path / "set.yaml"
    path.write_text(f"""
out: {tmp_path / "mix"}
sources:
  first: {{source: {tmp_path / "a"}, limit: 8, share: 0.75, workers: 1}}
  second: {{source: {tmp_path / "b"}, from: rlaif-v, share: 0.25, workers: 1}}
""")
    return path


def steps(done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(("first: ", "second: "))]


def test_all_steps_are_done_once(file, tmp_path):
    planned = run("make", file, "--dry-run")
    assert not (tmp_path / "mix").exists() and len(steps(planned)) == 8
    done = run("make", file)
    assert steps(done) == [
        f"{name}: {step}"
        for name in ("first", "second")
        for step in ("convert", "stats", "validate", "preview")
    ]
    mix = tmp_path / "mix"
    assert count_rows(mix / "first") == 8 and count_rows(mix / "second") == 6
    assert (mix / "first.html").is_file() and (mix / "second.svg").is_file()
    again = run("make", file)
    assert steps(again) == [] and "every step" in again.stderr


def test_the_mix_is_one_folder_for_llamafactory(file, tmp_path):
    done = run("make", file)
    mix = tmp_path / "mix"
    info = json.loads((mix / "dataset_info.json").read_text())
    assert {name: len(list(iter_rows(mix / entry["file_name"] / ".."))) for name, entry in info.items()} == {
        "first": 8, "second": 6,
    }  # fmt: skip
    assert all(entry["formatting"] == "aspo" and entry["ranking"] for entry in info.values())
    assert f"dataset_dir: {mix}\ndataset: first,second\n" in done.stdout
    assert "interleave_probs: 0.75,0.25" in done.stdout and f"  - path: {mix / 'second'}" in done.stdout


def test_a_step_whose_file_is_gone_or_old_is_done_again(file, tmp_path):
    run("make", file)
    (tmp_path / "mix" / "first.html").unlink()
    assert steps(run("make", file)) == ["first: preview"]
    record = tmp_path / "mix" / "second" / "aspo.json"
    record.write_text(record.read_text().replace('"rows"', '"rows" '))
    assert steps(run("make", file)) == ["second: stats", "second: validate", "second: preview"]


def test_other_settings_are_not_taken_for_the_same(file):
    run("make", file)
    file.write_text(file.read_text().replace("limit: 8", "limit: 9"))
    assert "was made with other settings" in run("make", file, code=2).stderr
    file.write_text(
        file.read_text().replace("limit: 9", "limit: 8").replace("0.75", "0.5").replace("0.25", "0.5")
    )
    assert "interleave_probs: 0.5,0.5" in run("make", file).stdout


def test_scoring_is_done_where_it_is_wanted_and_missing(file, tmp_path):
    from dataset_tools.cli.make import read, steps_of
    from dataset_tools.dataset.record import read_record, write_record
    from dataset_tools.scoring.encoder import identity_of_folder

    run("make", file)
    file.write_text(file.read_text() + "score: {model: some/clip, batch_size: 4}\n")
    plan = read(file)
    folder = tmp_path / "mix" / "first"
    command = ["score", str(folder), "--model=some/clip", "--batch-size=4"]
    assert dict(steps_of(plan, "first", plan["sources"]["first"]))["score"] == command
    for model, wanted in (("some/clip", False), ("other/clip", True)):
        write_record(folder, {**read_record(folder), "scorer": {"model": model, "rejected": False}})
        assert ("score" in dict(steps_of(plan, "first", plan["sources"]["first"]))) == wanted
    # A folder is recorded by its name and content.
    local = tmp_path / "models" / "clip"
    local.mkdir(parents=True)
    (local / "config.json").write_text("{}")
    plan["score"]["model"] = str(local)
    known = identity_of_folder(str(local))
    assert known is not None
    for scorer, wanted in ((known.as_dict(), False), ({**known.as_dict(), "fingerprint": "another"}, True)):
        write_record(folder, {**read_record(folder), "scorer": {**scorer, "rejected": False}})
        assert ("score" in dict(steps_of(plan, "first", plan["sources"]["first"]))) == wanted
    plan["score"]["rejected"] = True
    assert "score" in dict(steps_of(plan, "first", plan["sources"]["first"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sources:", "sourcs:"), "did you mean sources?"),
        (("share: 0.25", "share: 0.5"), "together 1"),
        (("share: 0.25, ", ""), "every source has a `share`"),
        (("out: ", "out: s3://bucket/"), "is an address"),
        (("first:", "a/b:"), "becomes a folder's"),
        (("source: ", "sauce: "), "needs a `source`"),
        (("limit: 8", "limitt: 8"), "limitt"),
        (("from: rlaif-v", "number_row: true"), "number-row"),
    ],
)
def test_a_mistake_is_met_before_anything_is_written(change, message, file, tmp_path):
    file.write_text(file.read_text().replace(*change))
    assert message in " ".join(run("make", file, code=2).stderr.split())
    assert not (tmp_path / "mix").exists()


def test_a_source_with_many_refused_rows_is_finished_by_the_next_run(tmp_path):
    rlaif_v(tmp_path / "a", rows=12)
    file = tmp_path / "set.yaml"
    file.write_text(f"out: {tmp_path / 'mix'}\nsources:\n  mine: {{source: {tmp_path / 'a'}, workers: 1}}\n")
    assert "whole all the same" in " ".join(run("make", file, code=1).stderr.split())
    file.write_text(file.read_text().replace("workers: 1", "workers: 1, max_bad: 90%"))
    done = run("make", file)
    assert [line for line in done.stderr.splitlines() if line.startswith("mine: ")] == [
        "mine: stats", "mine: validate", "mine: preview",
    ]  # fmt: skip


def test_a_local_source_that_changed_is_not_taken_for_the_same(file, tmp_path):
    run("make", file)
    changed = next(path for path in (tmp_path / "a").rglob("*.parquet"))
    later = changed.stat().st_mtime_ns + 2 * 10**9  # of a file system that counts in seconds, too
    os.utime(changed, ns=(later, later))
    said = " ".join(run("make", file, code=2).stderr.split())
    assert f"the files of {tmp_path / 'a'} have changed" in said
    changed.unlink()
    changed.parent.rename(tmp_path / "away")  # a source that is gone has not changed
    assert "every step" in run("make", file).stderr


def test_a_source_that_is_nowhere_is_met_before_the_first_step(file, tmp_path):
    file.write_text(file.read_text().replace(str(tmp_path / "b"), str(tmp_path / "nowhere")))
    said = " ".join(run("make", file, code=2).stderr.split())
    assert "second: " in said and "nowhere does not exist" in said
    assert not (tmp_path / "mix").exists()
