"""Working folders: whose they are, what is never touched in them, where OUT may lie, and missing locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_tools.dataset.schema import iter_rows, shards
from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.folder import _processes
from dataset_tools.share.export import export
from tests.support import converted, data

from .conftest import content

Convert = Callable[..., Any]
WORK = "out.incomplete"


@pytest.fixture
def published(tmp_path: Path, hub: Any) -> Path:
    rows = data.rows(30)
    folder = converted.write(tmp_path / "published", [rows[:10], rows[10:20], rows[20:]])
    hub.publish("user/set", folder)
    return folder


# --- a folder says whose it is -------------------------------------------------------------------


def test_a_killed_pull_is_not_resumed_as_a_conversion(
    published: Path, source: Path, hub: Any, aspo_data: Any, tmp_path: Path, convert: Convert
) -> None:
    hub.cut_next_download(after=4000, times=200)
    aspo_data("pull", "user/set", tmp_path / "out", code=1)
    before = content(tmp_path / WORK)
    for resume in (False, True):
        with pytest.raises(UsageError, match="unfinished `aspo-data pull`"):
            convert(source, tmp_path / "out", resume=resume)
    assert content(tmp_path / WORK) == before
    hub.mend()
    aspo_data("pull", "user/set", tmp_path / "out")
    assert list(iter_rows(tmp_path / "out")) == list(iter_rows(published))


def test_a_pull_leaves_the_shards_of_a_conversion_alone(
    published: Path, source: Path, aspo_data: Any, tmp_path: Path, convert: Convert
) -> None:
    convert(source, tmp_path / "whole")
    convert(source, tmp_path / "out", stop_after=200)
    before = content(tmp_path / WORK)
    assert any(name.endswith(".parquet") for name in before)
    refused = aspo_data("pull", "user/set", tmp_path / "out", code=2)
    assert "unfinished `aspo-data convert`" in refused.stderr
    assert content(tmp_path / WORK) == before
    convert(source, tmp_path / "out", resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_command_that_was_killed_before_it_said_whose_the_folder_is(
    source: Path, tmp_path: Path, convert: Convert, aspo_data: Any
) -> None:
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / "lock").touch()
    rows = converted.write(tmp_path / "set", [data.rows(4)])
    export(rows, tmp_path / "out", "trl")
    (tmp_path / "out").rename(tmp_path / "exported")
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / "lock").touch()
    convert(source, tmp_path / "out", resume=True)
    (tmp_path / WORK).mkdir()
    (tmp_path / WORK / "lock").symlink_to(rows / "empty")
    (rows / "empty").touch()
    (tmp_path / "out").rename(tmp_path / "converted")
    with pytest.raises(UsageError, match="was not made by"):
        convert(source, tmp_path / "out", resume=True)
    assert not (rows / "empty").read_bytes()


def test_an_export_and_a_conversion_keep_apart(source: Path, tmp_path: Path, convert: Convert) -> None:
    convert(source, tmp_path / "out", stop_after=200)
    rows = converted.write(tmp_path / "set", [data.rows(4)])
    with pytest.raises(UsageError, match="unfinished `aspo-data convert`"):
        export(rows, tmp_path / "out", "llamafactory")
    convert(source, tmp_path / "out", resume=True)


# --- what we did not write is never deleted ------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["notes.txt", "data/train-00000.parquet", "data/mine.parquet", "rejected.jsonl"]
)
def test_a_folder_of_somebody_else_is_left_alone(
    source: Path, tmp_path: Path, convert: Convert, name: str, aspo_data: Any
) -> None:
    path = tmp_path / WORK / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    rows = converted.write(tmp_path / "set", [data.rows(4)])
    for resume in (False, True):
        with pytest.raises(UsageError, match="was not made by"):
            convert(source, tmp_path / "out", resume=resume)
    with pytest.raises(UsageError, match="was not made by"):
        export(rows, tmp_path / "out", "trl")
    assert "was not made by" in aspo_data("pull", "user/set", tmp_path / "out", code=2).stderr
    assert content(tmp_path / WORK) == {name: b"mine"}


@pytest.mark.parametrize(
    "name", ["notes.txt", "data/mine.parquet", "data/test-00000.parquet", "images/a.png"]
)
def test_a_foreign_file_among_ours_is_left_alone(
    source: Path, tmp_path: Path, convert: Convert, name: str
) -> None:
    convert(source, tmp_path / "out", stop_after=200)
    path = tmp_path / WORK / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match="not written by aspo-data"):
        convert(source, tmp_path / "out", resume=True)
    assert path.read_text() == "mine"
    path.unlink()
    convert(source, tmp_path / "out", resume=True)


def test_nothing_is_changed_through_a_link(source: Path, tmp_path: Path, convert: Convert) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    for name in ("lock", "rejected.jsonl", "data/train-00000.parquet", "data/mine.txt"):
        (elsewhere / name).write_text(json.dumps({"aspo-data": "convert"}))
    before = content(elsewhere)
    (tmp_path / WORK).symlink_to(elsewhere)
    with pytest.raises(UsageError, match="in the way"):
        convert(source, tmp_path / "out", resume=True)
    (tmp_path / WORK).unlink()
    for name in ("rejected.jsonl", "data"):
        convert(source, tmp_path / "out", stop_after=200)
        inside = tmp_path / WORK / name
        inside.rename(tmp_path / "moved")
        inside.symlink_to(elsewhere / name)
        with pytest.raises(UsageError, match="symbolic link"):
            convert(source, tmp_path / "out", resume=True)
        inside.unlink()
        (tmp_path / "moved").rename(inside)
        convert(source, tmp_path / "out", resume=True)
        (tmp_path / "out").rename(tmp_path / f"done-{name}")
    assert content(elsewhere) == before


# --- where OUT may lie ---------------------------------------------------------------------------


def test_out_may_be_a_link(source: Path, tmp_path: Path, convert: Convert) -> None:
    convert(source, tmp_path / "plain")
    for name, target in (("empty", tmp_path / "disk" / "there"), ("dangling", tmp_path / "disk" / "new")):
        target.parent.mkdir(exist_ok=True)
        if name == "empty":
            target.mkdir()
        (tmp_path / name).symlink_to(target)
        convert(source, tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert content(tmp_path / name) == content(target) == content(tmp_path / "plain")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UsageError, match="circle"):
        convert(source, tmp_path / "circle")


def test_out_inside_of_the_source(source: Path, tmp_path: Path, convert: Convert) -> None:
    before = content(source)
    for out in (source / "out", source / "deep" / "out", source / ".." / source.name / "out"):
        with pytest.raises(UsageError, match="lies inside SOURCE"):
            convert(source, out)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(UsageError, match="lies inside SOURCE"):
        convert(tmp_path / "link", source / "out")
    assert content(source) == before


def test_out_is_the_source(source: Path, tmp_path: Path, convert: Convert) -> None:
    before = content(source)
    for out in (source, source / "."):
        with pytest.raises(UsageError, match="same folder"):
            convert(source, out)
    source.rename(tmp_path / WORK)
    with pytest.raises(UsageError, match="same folder"):  # the folder it would work in
        convert(tmp_path / WORK, tmp_path / "out")
    assert content(tmp_path / WORK) == before


def test_out_is_where_we_are(
    source: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", "", "..", "/"):
        with pytest.raises(UsageError):
            convert(source, Path(out))
    convert(source, Path("out"))
    assert shards("out")


def test_names_that_are_not_unicode(source: Path, tmp_path: Path, convert: Convert) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/o\xffdd"))
    source.rename(odd)
    convert(odd, tmp_path / "out", stop_after=200)
    convert(odd, tmp_path / "out", resume=True)
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ou\xfft"))
    convert(odd, out)
    rows = list(iter_rows(out))
    assert rows and rows == list(iter_rows(tmp_path / "out"))


# --- resume --------------------------------------------------------------------------------------


def test_a_source_that_changed_at_equal_size(source: Path, tmp_path: Path, convert: Convert) -> None:
    convert(source, tmp_path / "out", stop_after=200)
    file = sorted(source.rglob("*.parquet"))[-1]
    body, status = file.read_bytes(), file.stat()
    changed = bytearray(body)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    for keep_time in (False, True):
        if keep_time:
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(UsageError, match=f"{file.name} of the source has changed"):
            convert(source, tmp_path / "out", resume=True)
    file.write_bytes(body)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    convert(source, tmp_path / "out", resume=True)


def test_a_source_that_changes_while_it_is_read(
    source: Path, tmp_path: Path, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataset_tools.convert import run

    file = sorted(source.rglob("*.parquet"))[0]
    original = run.Run._close_shard

    def close(self: Any) -> None:
        original(self)
        os.utime(file, ns=(1, self.shards))

    monkeypatch.setattr(run.Run, "_close_shard", close)
    with pytest.raises(DataError, match="was changed while it was read"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_a_flipped_byte_in_a_finished_shard(
    source: Path, tmp_path: Path, convert: Convert, place: float, aspo_data: Any
) -> None:
    def flip(path: Path) -> None:
        body = bytearray(path.read_bytes())
        body[int(len(body) * place)] ^= 1
        path.write_bytes(body)

    convert(source, tmp_path / "out", stop_after=200)
    shard = tmp_path / WORK / "data" / "train-00001.parquet"
    flip(shard)
    with pytest.raises(DataError, match="train-00001.parquet is damaged"):
        convert(source, tmp_path / "out", resume=True)
    flip(shard)
    convert(source, tmp_path / "out", resume=True)
    aspo_data("validate", tmp_path / "out")
    if place > 0.7:
        return  # in the footer, which has no checksum of its own once the state is gone
    flip(shards(tmp_path / "out")[1])
    told = aspo_data("validate", tmp_path / "out", code=1)
    assert "train-00001-of" in told.output and "Traceback" not in told.output


def test_a_list_of_refused_rows_that_was_shortened(tmp_path: Path, convert: Convert) -> None:
    source = tmp_path / "pairs.jsonl"
    rows = [
        {"prompt": "Why?", "chosen": f"It is {n}. So." if n % 3 else 5, "rejected": "No."} for n in range(400)
    ]
    source.write_text("\n".join(map(json.dumps, rows)))
    convert(source, tmp_path / "out", stop_after=200)
    listed = tmp_path / WORK / "rejected.jsonl"
    body = listed.read_bytes()
    assert body
    listed.write_bytes(body[:10])
    with pytest.raises(DataError, match="was changed"):
        convert(source, tmp_path / "out", resume=True)
    listed.write_bytes(body)
    convert(source, tmp_path / "out", resume=True)
    assert b"\0" not in (tmp_path / "out" / "rejected.jsonl").read_bytes()


@pytest.mark.parametrize(
    "state", ["", "{}", "[]", "null", '{"shards": "x"}', "{" * 100_000, '{"fingerprint": 1}']
)
def test_a_damaged_state_is_a_message(source: Path, tmp_path: Path, convert: Convert, state: str) -> None:
    convert(source, tmp_path / "out", stop_after=200)
    (tmp_path / WORK / "state.json").write_text(state)
    with pytest.raises(DataError, match="state.json is damaged"):
        convert(source, tmp_path / "out", resume=True)


# --- locks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL])
def test_a_file_system_without_locks(
    source: Path,
    tmp_path: Path,
    convert: Convert,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def no_lock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_lock)
    convert(source, tmp_path / "out")
    assert "has no locks" in caplog.text
    caplog.clear()
    with _processes(tmp_path / "out"):
        pass
    assert "has no locks" in caplog.text


def test_a_lock_that_is_held_still_holds(source: Path, tmp_path: Path, convert: Convert) -> None:
    convert(source, tmp_path / "out", stop_after=200)
    with open(tmp_path / WORK / "lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another aspo-data is at work"):
            convert(source, tmp_path / "out", resume=True)
    convert(source, tmp_path / "out", resume=True)


def test_a_dataset_that_is_being_scored_is_not_pushed(tmp_path: Path, hub: Any, aspo_data: Any) -> None:
    folder = converted.write(tmp_path / "set", [data.rows(4)])
    with _processes(folder):
        refused = aspo_data("push", folder, "user/half", code=2)
    assert "being scored" in refused.stderr
    aspo_data("push", folder, "user/half")
