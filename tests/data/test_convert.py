"""`convert` as a run: one output for any number of workers and after any interruption, clear refusals."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.cli.errors import describe
from dataset_tools.convert import arrow_files, chunks, readers, text_files
from dataset_tools.convert import run as conversion_run
from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.convert.workers import ordered_map
from dataset_tools.dataset import folder, parquet
from dataset_tools.dataset.schema import iter_rows, shards
from dataset_tools.errors import DataError, UsageError
from dataset_tools.sources import Options
from tests.support import converted, data
from tests.support.sources import rlaif_v, vlfeedback

COMMAND = [sys.executable, "-c", "from dataset_tools.cli import main; main()"]


def run(source: Path, out: Path, **settings: object):
    return Conversion(Settings(str(source), out, **settings)).run()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """What survives a power cut is not tested here, and a busy disk takes long to confirm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A source of two files with defects, larger than several chunks."""
    folder = tmp_path_factory.mktemp("source")
    rlaif_v(folder, rows=420)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What an uninterrupted conversion of `source` with one worker gives."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(source, out, shard_rows=30)
    return content(out)


def test_several_workers_give_the_same_files(source, whole, tmp_path):
    run(source, tmp_path / "out", shard_rows=30, workers=3)
    assert content(tmp_path / "out") == whole


def test_nothing_but_the_output_is_left(source, whole, tmp_path):
    run(source, tmp_path / "out", shard_rows=30)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    names = {name.partition("/")[0] for name in whole}
    assert names == {"data", "aspo.json", "dataset_info.json", "rejected.jsonl"}
    assert "data/train-00013-of-00014.parquet" in whole


def test_every_shard_but_the_last_has_the_asked_rows_and_small_row_groups(source, tmp_path):
    import pyarrow.parquet as pq

    run(source, tmp_path / "out", shard_rows=250)
    files = [pq.read_metadata(path) for path in shards(tmp_path / "out")]
    assert [file.num_rows for file in files] == [250, 170]
    groups = [file.row_group(index).num_rows for file in files for index in range(file.num_row_groups)]
    assert groups == [100, 100, 50, 100, 70]


class Crash(BaseException):
    """Stands for kill -9: nothing may catch it."""


def crash_at(monkeypatch, number: int) -> SimpleNamespace:
    """Let the process "die" before its `number`-th change of the file system's names or small files."""
    counter = SimpleNamespace(calls=0)

    def dying(function):
        def call(*args, **kwargs):
            counter.calls += 1
            if counter.calls == number:
                raise Crash
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", dying(os.replace))
    monkeypatch.setattr(os, "rename", dying(os.rename))
    monkeypatch.setattr(os, "fsync", dying(os.fsync))
    for change in ("mkdir", "touch", "write_text", "unlink"):
        monkeypatch.setattr(Path, change, dying(getattr(Path, change)))
    monkeypatch.setattr(Path, "rename", dying(Path.rename))
    monkeypatch.setattr(parquet.ShardWriter, "abandon", lambda self: self._stream.close())
    return counter


def test_a_crash_before_any_step_is_taken_up(tmp_path):
    rlaif_v(tmp_path / "source", rows=70)
    run(tmp_path / "source", tmp_path / "whole", shard_rows=20)
    expected = content(tmp_path / "whole")
    crashes = 0
    for number in range(1, 500):
        out = tmp_path / f"out{number}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, number)
            try:
                run(tmp_path / "source", out, shard_rows=20)
            except Crash:
                crashes += 1
                assert not out.exists() or content(out) == expected
            else:
                break
        run(tmp_path / "source", out, shard_rows=20, resume=True)
        assert content(out) == expected, f"after a crash before step {number}"
    assert crashes > 25


def test_a_crash_while_taking_up_a_crash_is_taken_up(source, whole, tmp_path):
    chance = random.Random(7)
    out = tmp_path / "out"
    crashes = 0
    while not out.exists():
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, chance.randint(2, 90))
            try:
                run(source, out, shard_rows=30, resume=True)
            except Crash:
                crashes += 1
    run(source, out, shard_rows=30, resume=True)
    assert crashes > 2
    assert content(out) == whole


def finished(out: Path) -> int:
    folder = out.with_name(out.name + ".incomplete") / "data"
    return len([path for path in folder.glob("*.parquet") if not path.name.startswith(".")])


def children(pid: int) -> list[int]:
    """Child processes, whichever thread started them."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def wait(condition) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited five minutes in vain")


def test_killed_at_random_moments_and_resumed(tmp_path):
    rlaif_v(tmp_path / "source", rows=4000)
    run(tmp_path / "source", tmp_path / "whole", shard_rows=15)
    arguments = ["convert", str(tmp_path / "source"), str(tmp_path / "out"), "--shard-rows", "15", "--resume"]
    chance = random.Random()
    kills = 0
    for target in (1, 9, 25):
        process = subprocess.Popen([*COMMAND, *arguments, "--workers", "2"], stderr=subprocess.DEVNULL)
        wait(lambda: finished(tmp_path / "out") >= target or process.poll() is not None)  # noqa: B023
        time.sleep(chance.random() / 10)
        workers = children(process.pid) if process.poll() is None else []
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        wait(lambda: not any(alive(pid) for pid in workers))  # noqa: B023
    assert kills >= 2
    assert not (tmp_path / "out").exists()
    final = subprocess.run([*COMMAND, *arguments, "--workers", "1", "--max-bad", "50%"], capture_output=True)
    assert final.returncode == 0, final.stderr.decode()
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_ctrl_c_leaves_a_state_that_resume_takes_up(tmp_path):
    rlaif_v(tmp_path / "source", rows=4000, defects=False)
    arguments = ["convert", str(tmp_path / "source"), str(tmp_path / "out"), "--shard-rows", "25"]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait(lambda: finished(tmp_path / "out") >= 3 or process.poll() is not None)
    workers = children(process.pid)
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "error: stopped. Run the same command with --resume to go on." in errors
    assert "Traceback" not in errors
    wait(lambda: not any(alive(pid) for pid in workers))
    refused = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert refused.returncode == 2 and "unfinished conversion: add --resume" in refused.stderr
    done = subprocess.run([*COMMAND, *arguments, "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    run(tmp_path / "source", tmp_path / "whole", shard_rows=25)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_full_disk_says_so_and_can_be_resumed(source, whole, tmp_path, monkeypatch):
    class SmallDisk(io.FileIO):
        left = 60_000

        def write(self, data):
            SmallDisk.left -= len(data)
            if SmallDisk.left < 0:
                raise OSError(errno.ENOSPC, "No space left on device", self.name)
            return super().write(data)

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_sink", lambda path: SmallDisk(path, "wb"))
        with pytest.raises(OSError) as error:
            run(source, tmp_path / "out", shard_rows=30)
    code, message = describe(error.value, "convert")
    assert code == 1
    assert message.startswith("the disk is full") and message.endswith("with --resume.")
    assert finished(tmp_path / "out") > 0
    run(source, tmp_path / "out", shard_rows=30, resume=True)
    assert content(tmp_path / "out") == whole


def test_a_worker_that_is_killed_ends_the_run_with_a_message(source, tmp_path, monkeypatch):
    seen = []

    def killing(function, items, workers):
        for index, result in enumerate(ordered_map(function, items, workers)):
            if index == 0:
                for pid in children(os.getpid()):
                    if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
                        seen.append(pid)
            yield result

    monkeypatch.setattr(conversion_run, "ordered_map", killing)
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 8)
    with pytest.raises(DataError, match="worker process ended with exit code -9"):
        run(source, tmp_path / "out", workers=2)
    assert seen and not any(alive(pid) for pid in seen)


def test_a_worker_that_cannot_be_started_ends_the_run_with_a_message(source, tmp_path, monkeypatch):
    def start(process):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(multiprocessing.context.SpawnProcess, "start", start)
    with pytest.raises(DataError, match="worker process cannot be started .Resource temporarily"):
        run(source, tmp_path / "out", workers=2)


def fail_on_three(item: int) -> int:
    if item == 3:
        raise ValueError("three")
    return item * item


@pytest.mark.parametrize("workers", [1, 2])
def test_ordered_map_keeps_order_and_raises_what_a_worker_raised(workers):
    items = ((index, str(index)) for index in (0, 1, 2))
    assert list(ordered_map(fail_on_three, items, workers)) == [(0, "0", 0), (1, "1", 1), (2, "2", 4)]
    with pytest.raises(ValueError, match="three"):
        list(ordered_map(fail_on_three, ((index, None) for index in range(9)), workers))


def test_resume_refuses_other_settings_and_names_them(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(patch, 12)
        with pytest.raises(Crash):
            run(source, tmp_path / "out", shard_rows=30)
    with pytest.raises(UsageError, match="--resume: shard_rows is 31 now, but was 30"):
        run(source, tmp_path / "out", shard_rows=31, resume=True)
    run(source, tmp_path / "out", shard_rows=30, resume=True, workers=2)


def test_resume_refuses_a_whole_output_of_something_else(source, whole, tmp_path):
    out = tmp_path / "out"
    run(source, out, shard_rows=30)
    rlaif_v(tmp_path / "other", rows=3, defects=False)
    with pytest.raises(UsageError, match="--resume: source is 'other' now, but .* was made with 'source0'"):
        run(tmp_path / "other", out, resume=True)
    first = next(path.name for path in sorted(source.rglob("*.parquet")))
    for changed, named in (
        ({"limit": 5}, "limit is 5 now"),
        ({"number_rows": True}, "number_rows is True now"),
        ({"max_pixels": 99}, "max_pixels is 99 now"),
        ({"files": [f"*{first}"]}, "files is "),
    ):
        with pytest.raises(UsageError, match=f"--resume: {named}.*choose another OUT"):
            run(source, out, resume=True, **changed)
    assert run(source, out, resume=True, workers=2).rows == 420
    assert content(out) == whole


def test_an_existing_output_is_never_touched(source, whole, tmp_path):
    run(source, tmp_path / "out", shard_rows=30)
    with pytest.raises(UsageError, match="exists already"):
        run(source, tmp_path / "out", shard_rows=30)
    tally = run(source, tmp_path / "out", shard_rows=30, resume=True)  # complete: nothing to do
    assert tally.rows == 420
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="exists already"):
        run(source, tmp_path / "mine", resume=True)
    assert content(tmp_path / "out") == whole
    (tmp_path / "empty").mkdir()
    run(source, tmp_path / "empty", shard_rows=30)
    assert content(tmp_path / "empty") == whole


def test_two_conversions_do_not_write_into_one_folder(source, tmp_path):
    with folder.Workplace(tmp_path / "out", "train"):
        with pytest.raises(UsageError, match="another aspo-data is at work"):
            run(source, tmp_path / "out")


def test_one_huge_row_group_is_read_in_small_pieces(tmp_path, monkeypatch):
    import pyarrow as pa

    rlaif_v(tmp_path / "source", rows=400, defects=False)
    sizes = []
    original = arrow_files.ParquetFile._chunk
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 30_000)
    monkeypatch.setattr(
        arrow_files.ParquetFile,
        "_chunk",
        lambda self, batch, first, start: sizes.append(batch.num_rows) or original(self, batch, first, start),
    )
    run(tmp_path / "source", tmp_path / "out")
    assert max(sizes) < 50 and sum(sizes) >= 400
    assert [row["id"] for row in iter_rows(tmp_path / "out", ["id"])] == [str(i) for i in range(400)]
    assert pa.total_allocated_bytes() < 50e6


def test_each_row_keeps_its_own_image_whatever_the_chunks(tmp_path, monkeypatch):
    fixture = rlaif_v(tmp_path / "source", rows=30)
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1)
    run(tmp_path / "source", tmp_path / "out")
    for row in iter_rows(tmp_path / "out"):
        assert [image["bytes"] for image in row["images"]] == fixture.rows[row["id"]].images


def test_files_do_not_depend_on_the_chunks_also_where_pages_end_within_a_row_group(tmp_path, monkeypatch):
    """A resumed run cuts chunks elsewhere, and a page ends after a megabyte of images."""
    chance = random.Random(1)
    row = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}
    for index in range(60):
        picture = Image.frombytes("L", (200, 200), chance.randbytes(40_000))
        picture.save(tmp_path / f"{index}.png")
    lines = [json.dumps({**row, "image": f"{index}.png"}) for index in range(60)]
    (tmp_path / "set.jsonl").write_text("\n".join(lines), encoding="utf-8")
    made = []
    for rows in (128, 13):
        monkeypatch.setattr(chunks, "CHUNK_ROWS", rows)
        run(tmp_path / "set.jsonl", tmp_path / f"out-{rows}")
        made.append(content(tmp_path / f"out-{rows}"))
    assert made[0] == made[1]


@pytest.mark.parametrize("skip", [0, 1, 127, 128, 129, 211, 217, 300, 433])
def test_reading_can_start_at_any_row(source, skip):
    reader = readers.Reader([(path, path.name) for path in sorted(source.iterdir())])
    every = [(chunk.start + i) for chunk, _ in reader.chunks() for i in range(chunk.count)]
    assert every == list(range(reader.total))
    rest = [(chunk.start + i) for chunk, _ in reader.chunks(skip) for i in range(chunk.count)]
    assert rest == every[skip:]


def test_a_json_array_is_read_a_piece_at_a_time(tmp_path):
    items = [
        {"prompt": "p", "chosen": "a" * (index % 7), "n": index, "deep": [[1, {"x": "]}"}]]}
        for index in range(900)
    ]
    items[450]["chosen"] = "long" * 600_000
    path = tmp_path / "array.json"
    path.write_text(json.dumps(items, indent=1))
    found = [row for chunk, _ in text_files.JsonFile(path, "array").chunks(0, 0) for row in chunk.rows()]
    assert found == items
    skipped = [row for chunk, _ in text_files.JsonFile(path, "array").chunks(333, 0) for row in chunk.rows()]
    assert skipped == items[333:]


@pytest.mark.parametrize("text", ['[{"a": 1}, {"b": ', '[{"a": 1}', '[{"a": 1} oops]', "[1, 2", "["])
def test_a_broken_json_array_is_an_error_that_names_the_file(text, tmp_path):
    path = tmp_path / "array.json"
    path.write_text(text)
    with pytest.raises(DataError, match="array.json is not a whole JSON array"):
        list(text_files.JsonFile(path, "array").chunks(0, 0))


def test_a_parquet_file_cut_short_is_an_error_that_names_the_file(source, tmp_path):
    (tmp_path / "cut").mkdir()
    for name in sorted(os.listdir(source)):
        data = (source / name).read_bytes()
        (tmp_path / "cut" / name).write_bytes(data if name.endswith("0.parquet") else data[: len(data) // 2])
    with pytest.raises(DataError, match="001.parquet is not a readable parquet file, perhaps cut short"):
        run(tmp_path / "cut", tmp_path / "out")


def test_limit_reads_only_the_first_rows(source, tmp_path):
    tally = run(source, tmp_path / "out", limit=150, workers=2)
    assert (tally.read, tally.rows) == (150, 150)
    assert sum(1 for _ in iter_rows(tmp_path / "out")) == 150


def test_a_source_without_a_usable_row_is_an_error_and_no_output(tmp_path):
    row = {"prompt": "Q?", "chosen": "", "rejected": "No."}
    (tmp_path / "s.jsonl").write_text((json.dumps(row) + "\n") * 3)
    with pytest.raises(DataError, match=r"no row of 3 could be used: empty chosen \(3\)"):
        run(tmp_path / "s.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "e.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no rows"):
        run(tmp_path / "e.jsonl", tmp_path / "out")


def test_number_rows_replaces_ids_that_repeat(source, tmp_path):
    tally = run(source, tmp_path / "out", number_rows=True)
    assert "duplicate id" not in tally.reasons
    ids = [row["id"] for row in iter_rows(tmp_path / "out", ["id"])]
    assert len(ids) == len(set(ids)) == 421
    assert ids[0] == "RLAIF-V-Dataset_000-0"


def test_an_image_over_the_pixel_limit_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="no row of 435 could be used"):
        run(source, tmp_path / "out", max_pixels=24 * 24 - 1)
    run(source, tmp_path / "other", max_pixels=24 * 24)


def test_a_zip_in_parts_says_how_to_join_it(tmp_path):
    fixture = vlfeedback(tmp_path / "source")
    archive = fixture.path / "merged_images.zip"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="merged_images.zip is not a whole zip file.*zip -s 0"):
        run(fixture.path, tmp_path / "out")


def test_a_member_of_a_damaged_zip_is_refused(tmp_path):
    fixture = vlfeedback(tmp_path / "source")
    archive = fixture.path / "merged_images.zip"
    data = bytearray(archive.read_bytes())
    data[200] ^= 0xFF  # inside the first image
    archive.write_bytes(data)
    with pytest.raises(DataError, match="no row of 10 could be used"):
        run(fixture.path, tmp_path / "out")
    lines = (tmp_path / "out.rejected.jsonl").read_text()
    assert (
        "cannot be read from merged_images.zip: merged_images/a.jpg: it is damaged: the checksum differs"
        in lines
    )


def test_the_record_says_where_the_rows_come_from(source, tmp_path):
    run(source, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "aspo.json").read_text())
    assert record["source"]["name"] == "rlaif-v"
    assert record["source"]["license"] == "cc-by-nc-4.0"
    assert record["counts"]["rows"] == 420 and record["counts"]["rejected"] == 15
    assert record["counts"]["reasons"]["duplicate id"] == 1
    assert record["splitter"]["version"] and record["scorer"] is None
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())
    assert info["train"]["formatting"] == "aspo" and info["train"]["file_name"] == "data"


def test_the_datasets_library_reads_the_output(source, tmp_path):
    datasets = pytest.importorskip("datasets")
    run(source, tmp_path / "out", shard_rows=200)
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == 420
    assert loaded[0]["images"][0].size == (24, 24)
    assert loaded[0]["chosen"][0]["role"] == "assistant"
    streamed = next(iter(datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=True)))
    assert streamed["chosen_sentences"] == loaded[0]["chosen_sentences"]
    undecoded = loaded.cast_column("images", datasets.Sequence(datasets.Image(decode=False)))
    assert undecoded[5]["images"][0]["bytes"] == list(iter_rows(tmp_path / "out"))[5]["images"][0]["bytes"]


@pytest.mark.parametrize(
    ("arguments", "way"),
    [
        (("convert", "SOURCE", "s3://bucket/a/out"), "`aws s3 sync out s3://bucket/a/out`"),
        (("stats", "s3://bucket/a/out"), "`aws s3 sync s3://bucket/a/out out`"),
        (("preview", "WHOLE", "--html", "s3://bucket/a/out"), "`aws s3 cp out s3://bucket/a/out`"),
        (("stats", "WHOLE", "--picture", "s3://bucket/out.svg"), "`aws s3 cp out.svg s3://bucket/out.svg`"),
        (("convert", "SOURCE", "hf://datasets/me/out"), "`aspo-data push`"),
        (("stats", "hf://datasets/me/out"), "`aspo-data pull`"),
        (("convert", "SOURCE", "gs://bucket/out"), "by that store's own command"),
    ],
)
def test_an_address_is_no_folder(arguments, way, source, tmp_path, monkeypatch):
    """It would become a folder named `s3:` here."""
    monkeypatch.chdir(tmp_path)
    whole = converted.write(tmp_path / "whole", [data.rows(1)]) if "WHOLE" in arguments else None
    words = [{"SOURCE": str(source), "WHOLE": str(whole)}.get(word, word) for word in arguments]
    result = CliRunner().invoke(app, words)
    address = next(word for word in words if "://" in word)
    assert result.exit_code == 2 and not [path for path in tmp_path.iterdir() if ":" in path.name]
    told = result.stderr.splitlines()[-1]
    assert (
        told.startswith(f"error: {address} is an address, and aspo-data works on files and folders:")
        and way in told
    )


def test_no_folder_of_the_users_machine_is_published(tmp_path):
    """Absolute paths of images become those below their root, with and without `--image-root`."""
    secret = tmp_path / "secret"
    (secret / "pics").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(secret / "pics" / "0.png")
    whole = secret / "pics" / "0.png"
    row = {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog."}
    forms = [[str(whole)], [{"path": str(whole), "bytes": None}], [f"file://{whole}"], ["pics/0.png"]]
    rows = [row | {"id": str(number), "images": images} for number, images in enumerate(forms)]
    (secret / "rows.jsonl").write_text("\n".join(json.dumps(each) for each in rows))
    run(secret / "rows.jsonl", tmp_path / "beside")
    run(secret / "rows.jsonl", tmp_path / "given", image_roots=[secret / "pics", secret])
    for out, names in ((tmp_path / "beside", ["pics/0.png"] * 4), (tmp_path / "given", None)):
        paths = [each["images"][0]["path"] for each in iter_rows(out)]
        assert len(paths) == 4 and paths == (names or ["0.png"] * 3 + ["pics/0.png"])
        assert not any(str(tmp_path).encode() in data for data in content(out).values())


@pytest.mark.parametrize("named", ["question", "prompt"])
def test_jsonl_reads_the_column_image_where_none_is_named(named, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    row = {named: "What is <image>?", "chosen": "A cat.", "rejected": "A dog.", "image": "0.png"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    columns = {} if named == "prompt" else {"prompt": named}
    tally = run(tmp_path / "rows.jsonl", tmp_path / "out", kind="jsonl", options=Options(columns=columns))
    assert (tally.rows, tally.rejected) == (1, 0)
    assert [image["path"] for each in iter_rows(tmp_path / "out") for image in each["images"]] == ["0.png"]


def test_a_converted_dataset_is_not_converted_again(source, tmp_path):
    run(source, tmp_path / "once", limit=20)
    shard = next((tmp_path / "once" / "data").glob("*.parquet"))
    for again in (tmp_path / "once", shard.parent, shard):
        for limit in (None, 2):
            with pytest.raises(UsageError, match="was made by aspo-data.*Convert the original source"):
                run(again, tmp_path / "twice", limit=limit)
    assert not (tmp_path / "twice").exists()
