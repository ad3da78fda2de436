"""`aspo-data push` and `pull` with the real client against a stand-in Hub, with connections that break."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.dataset.record import read_record, write_record
from dataset_tools.dataset.schema import iter_rows, shards
from dataset_tools.inspect.chart import draw
from dataset_tools.inspect.stats import collect
from tests.support import converted, data
from tests.support.hub import TOKEN, StandInHub, apply_environment
from tests.support.sources import rlaif_v, vlfeedback

SCORER = {
    "model": "openai/clip-vit-large-patch14-336",
    "revision": "ab12",
    "dtype": "float16",
    "rejected": False,
}


@pytest.fixture
def hub():
    with StandInHub() as server:
        yield server


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = data.rows(30)
    folder = tmp_path_factory.mktemp("converted") / "set"
    return converted.write(folder, [rows[:10], rows[10:20], rows[20:]], scorer=SCORER)


def client(hub: StandInHub, home: Path, *command: str) -> str:
    """stdout of a process of its own, whose client finds the hub by its environment, as a user's does."""
    environ = {**apply_environment(hub, dict(os.environ)), "HF_HOME": str(home)}
    result = subprocess.run(
        [sys.executable, *command], env=environ, capture_output=True, text=True, timeout=300
    )
    output = result.stdout + result.stderr
    assert TOKEN not in output and TOKEN[:12] not in output, "a token was printed"
    assert result.returncode == 0, output
    return result.stdout


@pytest.fixture
def aspo_data(hub: StandInHub, monkeypatch: pytest.MonkeyPatch):
    """The command line in this process, its client pointed at the stand-in; retries do not wait."""
    from huggingface_hub import constants

    settings = {"ENDPOINT": hub.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    settings["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    # The client's log handler keeps the stderr of its first use, which the runner has closed since.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(*arguments: str | Path, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert TOKEN[:12] not in result.output, "a token was printed"
        assert result.exit_code == code, result.output
        return result

    return run


def test_push_then_pull_gives_the_same_dataset(hub, out, tmp_path, aspo_data):
    push = ("-m", "dataset_tools", "push", str(out), "user/set", "--private", "--json")
    pushed = json.loads(client(hub, tmp_path, *push))
    repo = hub.repo("user/set")
    assert repo.private and pushed["commit"] == repo.branches["main"] and len(repo.messages) == 2
    files = repo.files()
    names = {path.name for path in shards(out)}
    assert {name for name in files if name != ".gitattributes"} == {f"data/{name}" for name in names} | {
        "aspo.json", "dataset_info.json", "README.md", "stats.png",
    }  # fmt: skip
    assert b"license: cc-by-nc-4.0" in files["README.md"] and b"](stats.png)" in files["README.md"]
    assert files["stats.png"].startswith(b"\x89PNG")

    copy = tmp_path / "copy"
    pull = ("-m", "dataset_tools", "pull", "user/set", str(copy), "--json")
    pulled = json.loads(client(hub, tmp_path, *pull))
    assert pulled["commit"] == pushed["commit"]
    assert list(iter_rows(copy)) == list(iter_rows(out)) and read_record(copy) == read_record(out)
    everything = ["README.md", "aspo.json", "data", "dataset_info.json", "stats.png"]
    assert sorted(path.name for path in copy.iterdir()) == everything
    assert not (tmp_path / "copy.incomplete").exists()

    # Pushing the copy again is no new commit, and a folder that is there is not overwritten.
    aspo_data("push", copy, "user/set")
    assert len(repo.messages) == 2
    refused = aspo_data("pull", "user/set", copy, code=2)
    assert "exists and is not empty" in refused.stderr


def test_an_upload_cut_in_the_middle_is_taken_up_again(hub, out, tmp_path, aspo_data):
    # All files but the largest arrive, where the line breaks at each of the client's attempts.
    draw(collect(out), out / "stats.png")
    sizes = sorted(path.stat().st_size for path in [*shards(out), out / "stats.png"])
    hub.cut_next_upload(after=sizes[-2], times=50)
    failed = aspo_data("push", out, "user/set", code=1)
    assert "the upload was cut off. Run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(hub.repo("user/set").files()) == [".gitattributes"], "half a dataset is visible"
    hub.mend()
    assert 1 <= len(hub.uploaded) < len(sizes)
    arrived = list(hub.uploaded)
    aspo_data("push", out, "user/set")
    assert len(hub.uploaded) == len(set(hub.uploaded)) == len(sizes)
    assert hub.uploaded[: len(arrived)] == arrived
    files = hub.repo("user/set").files()
    assert all(files[f"data/{path.name}"] == path.read_bytes() for path in shards(out))


def test_a_download_cut_in_the_middle_is_taken_up_again(hub, out, tmp_path, aspo_data):
    aspo_data("push", out, "user/set")
    copy = tmp_path / "copy"
    hub.cut_next_download(after=4000, times=200)
    failed = aspo_data("pull", "user/set", copy, code=1)
    assert "the download was cut off. Run the same command again" in failed.stderr
    assert not copy.exists() and (tmp_path / "copy.incomplete").exists()
    hub.mend()
    aspo_data("pull", "user/set", copy)
    assert list(iter_rows(copy)) == list(iter_rows(out))


def test_a_pull_that_failed_is_in_nobodys_way(hub, out, tmp_path, aspo_data):
    from dataset_tools.dataset.workplace import MARK, working_folder

    copy = tmp_path / "copy"
    assert "no such dataset" in aspo_data("pull", "user/sett", copy, code=1).stderr
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "train.jsonl").write_text("{}")
    hub.publish("user/plain", tmp_path / "plain")
    assert "was not made by aspo-data" in aspo_data("pull", "user/plain", copy, code=2).stderr
    assert not working_folder(copy).exists()
    # One that was killed before anything arrived.
    working_folder(copy).mkdir()
    (working_folder(copy) / MARK).write_text('{"aspo-data": "pull"}')
    aspo_data("export", out, copy, "--to", "trl")
    assert (copy / "train.parquet").is_file() and not (copy / MARK).exists()


def test_a_pull_of_another_dataset_keeps_nothing_of_the_one_that_was_cut(hub, out, tmp_path, aspo_data):
    draw(collect(out), out / "stats.png")
    aspo_data("push", out, "user/set")
    hub.cut_next_download(after=4000, times=200)
    copy = tmp_path / "copy"
    aspo_data("pull", "user/set", copy, code=1)
    hub.mend()
    (copy.with_name("copy.incomplete") / "stats.png").write_bytes(b"of the first")
    other = converted.write(tmp_path / "other", [data.rows(4)])
    hub.publish("user/other", other)
    aspo_data("pull", "user/other", copy)
    assert list(iter_rows(copy)) == list(iter_rows(other))
    assert sorted(path.name for path in copy.iterdir()) == ["aspo.json", "data", "dataset_info.json"]


READ = """
import sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train")
streamed = list(load_dataset(sys.argv[1], split="train", streaming=True))
assert len(rows) == len(streamed) == 30
for row in (rows[0], streamed[0]):
    assert row["images"][0].size == (72, 56), row["images"]
    print(sorted(row), row["chosen"], row["chosen_sentences"], row["chosen_similarity"])
"""


def test_load_dataset_reads_it_also_streaming(hub, out, tmp_path, aspo_data):
    aspo_data("push", out, "user/set")
    lines = client(hub, tmp_path, "-c", READ, "user/set").splitlines()
    row = next(iter_rows(out))
    expected = f"{sorted(row)} {row['chosen']} {row['chosen_sentences']} {row['chosen_similarity']}"
    assert lines == [expected, expected]


def test_a_branch_and_files_that_are_gone(hub, out, tmp_path, aspo_data):
    rows = data.rows(6)
    small = converted.write(tmp_path / "small", [rows], scorer=SCORER)
    aspo_data("push", out, "user/set", "--revision", "v2")
    repo = hub.repo("user/set")
    assert list(repo.files()) == [".gitattributes"] and len(repo.files("v2")) == 8
    done = json.loads(aspo_data("push", small, "user/set", "--revision", "v2", "--json").stdout)
    assert len(done["removed"]) == 3
    assert [name for name in repo.files("v2") if name.startswith("data/")] == [
        "data/train-00000-of-00001.parquet"
    ]
    aspo_data("pull", "user/set", tmp_path / "v2", "--revision", "v2")
    assert len(list(iter_rows(tmp_path / "v2"))) == 6
    missing = aspo_data("pull", "user/set", tmp_path / "v3", "--revision", "v3", code=1)
    assert "no such --revision" in missing.stderr
    empty = aspo_data("pull", "user/set", tmp_path / "main", code=2)
    assert "has no aspo.json" in empty.stderr and "aspo-data convert user/set" in empty.stderr


def test_a_repository_of_something_else_is_left_alone(hub, out, tmp_path, aspo_data):
    folder = tmp_path / "theirs"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    hub.publish("user/card", folder)
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    hub.publish("user/theirs", folder)
    theirs = hub.repo("user/theirs")
    before, branches = theirs.files(), dict(theirs.branches)
    for options in ((), ("--revision", "v2")):
        refused = aspo_data("push", out, "user/theirs", *options, code=2)
        assert "README.md, data/train-00000-of-00001.parquet" in refused.stderr
        assert "another name" in refused.stderr and "--overwrite" in refused.stderr
    assert theirs.files() == before and theirs.branches == branches and not hub.uploaded
    assert "README.md" in aspo_data("push", out, "user/card", code=2).stderr

    done = aspo_data("push", out, "user/theirs", "--overwrite")
    assert "removed" in done.stderr and "data/train-00000-of-00001.parquet" in done.stderr
    assert "data/train-00000-of-00001.parquet" not in theirs.files() and "aspo.json" in theirs.files()
    # From now on it is an own one; whoever writes its card or adds a file of rows keeps what she wrote.
    aspo_data("push", out, "user/theirs")
    files = {name: theirs.commits[theirs.branches["main"]][name] for name in theirs.files()}
    for name in ("README.md", "data/train-mine.parquet"):
        theirs.commit("main", {**files, name: files["dataset_info.json"]}, "by hand")
        assert name in aspo_data("push", out, "user/theirs", code=2).stderr


def test_private_never_means_public(hub, out, tmp_path, aspo_data):
    aspo_data("push", out, "user/set")
    refused = aspo_data("push", out, "user/set", "--private", code=2)
    assert "exists and is public" in refused.stderr


def test_dry_run_asks_nothing_of_the_hub(hub, out, tmp_path, aspo_data):
    before = sorted(p.name for p in out.iterdir())
    result = aspo_data("push", out, "user/other", "--dry-run", "--json")
    shown = json.loads(result.stdout)
    assert shown["license"] == "cc-by-nc-4.0" and "license: cc-by-nc-4.0" in shown["card"]
    assert shown["files"]["data/train-00000-of-00003.parquet"] == shards(out)[0].stat().st_size
    assert hub.requests == [] and sorted(p.name for p in out.iterdir()) == before


def test_a_wrong_token_and_a_missing_repository(hub, out, tmp_path, aspo_data, monkeypatch):
    missing = aspo_data("pull", "user/nothing", tmp_path / "x", code=1)
    assert "no such dataset" in missing.stderr
    wrong = "hf_" + "wrong" * 6
    monkeypatch.setenv("HF_TOKEN", wrong)
    refused = aspo_data("push", out, "user/set", code=1)
    # The stand-in's answer quotes the token, as a careless proxy might.
    assert "Invalid credentials" in refused.stderr and wrong not in refused.output


def test_what_may_not_be_pushed(out, tmp_path):
    from dataset_tools.errors import UsageError
    from dataset_tools.share import hub as module

    rows = data.rows(4)
    folder = converted.write(tmp_path / "set", [rows[:2], rows[2:]])
    assert module.plan(folder, "user/set").scored is False
    (folder / "README.md").write_text("# My own words")
    with pytest.raises(UsageError, match="was not written by aspo-data"):
        module.plan(folder, "user/set")
    (folder / "README.md").unlink()
    with pytest.raises(UsageError, match="not a Hub id"):
        module.plan(folder, "../set")
    shards(folder)[0].unlink()
    with pytest.raises(UsageError, match="does not fit"):
        module.plan(folder, "user/set")


def test_half_scored_is_not_pushed(tmp_path):
    import pyarrow.parquet as pq

    from dataset_tools.errors import UsageError
    from dataset_tools.scoring.scored import SCORER_KEY
    from dataset_tools.share import hub as module

    rows = data.rows(4)
    folder = converted.write(tmp_path / "set", [rows[:2], rows[2:]])
    table = pq.read_table(shards(folder)[0])
    metadata = {**table.schema.metadata, SCORER_KEY: b'{"model": "clip"}'}
    pq.write_table(table.replace_schema_metadata(metadata), shards(folder)[0])
    with pytest.raises(UsageError, match="1 of 2 shards .* are scored"):
        module.plan(folder, "user/set")
    write_record(folder, {**read_record(folder), "scorer": SCORER})
    assert module.plan(folder, "user/set").scored


@pytest.fixture
def convert(aspo_data, tmp_path, monkeypatch):
    """`aspo-data convert` with a Hub cache of its own; returns the summary."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def run(*arguments: str | Path) -> dict[str, Any]:
        more = ("--max-bad", "100%", "--workers", "1", "--json")
        return json.loads(aspo_data("convert", *arguments, *more).stdout)

    return run


def test_convert_reads_a_hub_dataset_at_the_asked_revision(hub, tmp_path, convert):
    rlaif_v(tmp_path / "old", rows=9)
    rlaif_v(tmp_path / "new", rows=5, defects=False)
    (tmp_path / "old" / "extra").mkdir()
    (tmp_path / "old" / "extra" / "huge.bin").write_bytes(b"not data")
    commit = hub.publish("user/source", tmp_path / "old", card="license: cc-by-nc-4.0")
    later = hub.publish("user/source", tmp_path / "new", card="license: cc-by-nc-4.0")
    hub.publish("user/source", tmp_path / "old", branch="v1", card="license: cc-by-nc-4.0")

    convert(tmp_path / "old", tmp_path / "local")
    for name, revision in (("by-commit", commit), ("by-branch", "v1")):
        found = convert("user/source", tmp_path / name, "--revision", revision)
        assert found["from"] == "rlaif-v"
        assert list(iter_rows(tmp_path / name)) == list(iter_rows(tmp_path / "local"))
    source = read_record(tmp_path / "by-commit")["source"]
    assert source["revision"] == commit and source["location"] == "user/source"
    assert source["license"] == "cc-by-nc-4.0" and source["url"].endswith("/datasets/user/source")

    newest = convert("user/source", tmp_path / "newest")
    assert newest["rows"] == 5 and read_record(tmp_path / "newest")["source"]["revision"] == later
    assert not any("huge.bin" in path for method, path in hub.requests if method == "GET")


def test_convert_fetches_the_images_beside_a_hub_jsonl(hub, tmp_path):
    fixture = vlfeedback(tmp_path / "source")
    hub.publish("user/vlfeedback", tmp_path / "source")
    command = ("-m", "dataset_tools", "convert", "user/vlfeedback", str(tmp_path / "out"))
    found = json.loads(client(hub, tmp_path / "home", *command, "--max-bad", "100%", "--json"))
    assert found["from"] == "vlfeedback" and found["rows"] == len(fixture.rows)
    rows = {row["id"]: row for row in iter_rows(tmp_path / "out")}
    for name, expected in fixture.rows.items():
        assert [image["bytes"] for image in rows[name]["images"]] == expected.images
    assert not any(path.endswith(".py") for method, path in hub.requests if method == "GET")


def test_convert_goes_on_with_a_download_that_was_cut(hub, tmp_path, aspo_data, monkeypatch):
    rlaif_v(tmp_path / "source", rows=40, defects=False)
    hub.publish("user/source", tmp_path / "source")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.cut_next_download(after=4000, times=200)
    failed = aspo_data("convert", "user/source", tmp_path / "out", "--workers", "1", code=1)
    assert "the download was cut off. Run the same command again" in failed.stderr
    assert "Traceback" not in failed.stderr and not (tmp_path / "out.incomplete").exists()
    hub.mend()
    aspo_data("convert", "user/source", tmp_path / "out", "--workers", "1")
    assert len(list(iter_rows(tmp_path / "out"))) == 40


def test_convert_is_not_resumed_on_another_commit(hub, tmp_path, aspo_data, monkeypatch):
    rlaif_v(tmp_path / "source", rows=40, defects=False)
    before = hub.publish("user/source", tmp_path / "source")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    command = ("convert", "user/source", tmp_path / "out", "--workers", "1", "--shard-rows", "7")
    with monkeypatch.context() as patch:
        patch.setattr("dataset_tools.dataset.folder.Workplace.finish", lambda *_: 1 / 0)
        aspo_data(*command, code=1)
    now = hub.publish("user/source", tmp_path / "source")
    refused = aspo_data(*command, "--resume", code=2)
    assert f"revision is '{now}' now, but was '{before}'" in refused.stderr
    aspo_data(*command, "--resume", "--revision", before)
    assert len(list(iter_rows(tmp_path / "out"))) == 40


def test_offline_is_not_taken_for_a_broken_line(hub, tmp_path, aspo_data, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for command in ("convert", "pull"):
        refused = aspo_data(command, "user/source", tmp_path / "out", code=1)
        assert "HF_HUB_OFFLINE is set, so the Hub is not asked" in refused.stderr


def test_a_source_that_the_hub_does_not_have(hub, tmp_path, aspo_data):
    rlaif_v(tmp_path / "source", rows=2, defects=False)
    hub.publish("user/source", tmp_path / "source")
    missing = aspo_data("convert", "user/nothing", tmp_path / "out", code=1)
    assert "no such dataset on the Hub" in missing.stderr
    missing = aspo_data("convert", "user/source", tmp_path / "out", "--revision", "v9", code=1)
    assert "no such --revision on the Hub" in missing.stderr
    missing = aspo_data("convert", "user/source", tmp_path / "out", "--split", "test", code=2)
    assert "user/source has no split test" in missing.stderr
