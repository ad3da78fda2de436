"""`convert` from the Hub: it fetches what is read, asks a busy Hub again, and reads the cache offline."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataset_tools.convert.files import readable_size
from dataset_tools.convert.hub import parse_address
from dataset_tools.dataset.record import read_record
from dataset_tools.dataset.schema import iter_rows
from dataset_tools.errors import UsageError
from dataset_tools.images import archives
from tests.support.hub import StandInHub, apply_environment
from tests.support.sources import mmpr_published, png, rlaif_v, vlfeedback
from tests.support.sources.base import IMAGE, write_lines


@pytest.fixture
def hub():
    with StandInHub() as server:
        yield server


def convert(hub: StandInHub, home: Path, *arguments: str | Path, code: int = 0, **environ: str) -> Any:
    """`aspo-data convert` as a user's process; the printed summary, and what it said beside."""
    command = [sys.executable, "-m", "dataset_tools", "convert", *map(str, arguments), "--json"]
    environ = {**apply_environment(hub, dict(os.environ)), "HF_HOME": str(home), **environ}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return {**json.loads(done.stdout), "said": done.stderr} if code == 0 else done.stderr


def noise(seed: int, size: int = 160) -> bytes:
    """A JPEG that takes tens of kilobytes."""
    stream = io.BytesIO()
    Image.frombytes("L", (size, size), Random(seed).randbytes(size * size)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_a_limit_and_a_dry_run_fetch_less_than_a_tenth_of_a_parquet_file(hub, tmp_path):
    picture = [{"bytes": noise(index, 90), "path": None} for index in range(50)]
    columns = {"prompt": [f"What is {index}?" for index in range(3000)]}
    columns |= {"chosen": ["A cat. It sleeps."] * 3000, "rejected": ["A dog. It runs."] * 3000}
    table = pa.table({**columns, "image": pa.array([picture[i % 50] for i in range(3000)], IMAGE)})
    (tmp_path / "set" / "data").mkdir(parents=True)
    file = tmp_path / "set" / "data" / "train-00000-of-00001.parquet"
    pq.write_table(table, file, row_group_size=100, use_dictionary=False, compression="none")
    size = file.stat().st_size
    hub.publish("user/set", tmp_path / "set")

    shown = convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--dry-run", "--limit", "10")
    assert shown["files"] == {"data/train-00000-of-00001.parquet": size} and shown["total_rows"] == 10
    assert hub.sent < size / 10
    hub.sent = 0
    found = convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--limit", "10", "--workers", "1")
    assert (found["read"], found["rows"]) == (10, 10) and hub.sent < size / 10
    rows = list(iter_rows(tmp_path / "out"))
    assert [row["images"][0]["bytes"] for row in rows] == [item["bytes"] for item in picture[:10]]


def test_a_limit_reads_the_first_lines_and_single_members_of_a_zip(hub, tmp_path):
    vlfeedback(tmp_path / "set")
    rows = [
        json.loads(line) for line in (tmp_path / "set" / "vlfeedback_80k.jsonl").read_bytes().splitlines()[:1]
    ]
    first = rows[0]
    lines = [{**first, "id": f"n{index}", "note": "x" * 4000} for index in range(1500)]
    write_lines(tmp_path / "set" / "vlfeedback_80k.jsonl", lines)
    with zipfile.ZipFile(tmp_path / "set" / "merged_images.zip", "w") as archive:
        for index in range(300):
            archive.writestr(f"merged_images/n{index}.jpg", noise(index))
    size = sum(file.stat().st_size for file in (tmp_path / "set").iterdir())
    hub.publish("user/vl", tmp_path / "set")
    found = convert(hub, tmp_path / "home", "user/vl", tmp_path / "out", "--limit", "5", "--workers", "1")
    assert found["read"] == 5 and found["rows"] == 15 and found["rejected"] == 0
    assert hub.sent < size / 10
    assert "not the file of pairs" in found["files_not_read"]["instruction_source.jsonl"]


def test_a_limit_reads_single_members_of_a_tar(hub, tmp_path):
    pair = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}
    (tmp_path / "set").mkdir()
    pictures = [noise(index) for index in range(120)]
    with tarfile.open(tmp_path / "set" / "images.tar", "w") as archive:
        for index, picture in enumerate(pictures):
            member = tarfile.TarInfo(f"./images/{index}.jpg")
            member.size = len(picture)
            archive.addfile(member, io.BytesIO(picture))
    order = [3, 0, 2, 1, 3, *range(4, 120)]
    rows = [{**pair, "image": f"images/{index}.jpg"} for index in order]
    write_lines(tmp_path / "set" / "train.jsonl", rows)
    size = sum(file.stat().st_size for file in (tmp_path / "set").iterdir())
    hub.publish("user/set", tmp_path / "set")
    shown = convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--dry-run", "--limit", "5")
    packed = (tmp_path / "set" / "images.tar").stat().st_size
    assert shown["images_to_fetch"] == {"images.tar": packed} and hub.sent < size / 10
    hub.sent = 0
    found = convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--limit", "5", "--workers", "1")
    assert found["rows"] == 5 and hub.sent < size / 10
    assert f"images    images.tar ({readable_size(packed)}), read in parts" in found["said"]
    expected = [pictures[index] for index in order[:5]]
    assert [row["images"][0]["bytes"] for row in iter_rows(tmp_path / "out")] == expected
    found = convert(hub, tmp_path / "home", "user/set", tmp_path / "all", "--workers", "1")
    assert found["rows"] == len(order)
    assert f"images    images.tar ({readable_size(packed)}), fetched whole" in found["said"]


ON_A_CLUSTER = """
import sys
from pathlib import Path
from dataset_tools.convert import image_places, locate
from dataset_tools.errors import UsageError
from tests.data.test_cluster_convert import Pretended, run

class Offline(Pretended):
    def spread(self, *arguments, **named):
        kept = locate.cached, locate.download, image_places.download_matching
        locate.cached = locate.download = image_places.download_matching = None
        try:
            yield from super().spread(*arguments, **named)
        finally:
            locate.cached, locate.download, image_places.download_matching = kept

cluster = Offline()
run("user/set", Path(sys.argv[1]), cluster, shard_rows=5)
assert len(cluster.pieces) == 8
"""


def test_on_a_cluster_the_machines_read_what_the_first_one_fetched(hub, tmp_path):
    pair = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}
    (tmp_path / "set" / "loose").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "set" / "images.zip", "w") as archive:
        for index in range(10):
            archive.writestr(f"images/{index}.jpg", noise(index, 20))
    for index in range(10, 20):
        (tmp_path / "set" / "loose" / f"{index}.jpg").write_bytes(noise(index, 20))
    names = [f"{'images' if index < 10 else 'loose'}/{index}.jpg" for index in range(20)]
    write_lines(tmp_path / "set" / "train.jsonl", [{**pair, "image": name} for name in names])
    hub.publish("user/set", tmp_path / "set")
    found = convert(hub, tmp_path / "home", "user/set", tmp_path / "alone", "--shard-rows", "5")
    assert found["rows"] == 20
    environ = {**apply_environment(hub, dict(os.environ)), "HF_HOME": str(tmp_path / "other")}
    command = [sys.executable, "-c", ON_A_CLUSTER, str(tmp_path / "shared")]
    subprocess.run(command, env=environ, check=True, timeout=300)
    for path in (tmp_path / "alone").rglob("*"):
        if path.is_file():
            other = tmp_path / "shared" / path.relative_to(tmp_path / "alone")
            assert other.read_bytes() == path.read_bytes()
    refused = ["--limit", "3", "--engine", "ray"]
    said = convert(hub, tmp_path / "home", "user/set", tmp_path / "x", *refused, code=2)
    assert "--limit reads a Hub dataset in parts, which --engine ray does not" in said


def test_a_far_tar_is_fetched_whole_where_its_first_headers_do_not_hold_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "HEADERS", 4)
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for index in range(8):
            made.addfile(tarfile.TarInfo(f"{index}.jpg"), io.BytesIO())
    whole: list[Path] = []

    class Far:
        name = "a.tar"

        def open(self, mode: str, least: int) -> Any:
            return open(tmp_path / "a.tar", mode)

    far = archives.TarByRange(Far(), lambda: whole.append(tmp_path / "a.tar") or tmp_path / "a.tar")
    assert far.holds_images and far.read("3.jpg", 10) == b"" and not whole
    assert far.read("5.jpg", 10) == b"" and far.read("nothing.jpg", 10) is None and len(whole) == 1


def test_a_tar_that_is_fetched_whole_after_all_says_so_first(hub, tmp_path):
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "images.tar", "w") as archive:
        for index in range(archives.HEADERS + 1):
            member = tarfile.TarInfo(f"{index}.png")
            member.size = len(png(index % 9))
            archive.addfile(member, io.BytesIO(png(index % 9)))
    pair = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}
    write_lines(tmp_path / "set" / "train.jsonl", [{**pair, "image": f"{archives.HEADERS}.png"}])
    hub.publish("user/set", tmp_path / "set")
    found = convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--limit", "1", "--workers", "1")
    assert found["rows"] == 1
    size = readable_size((tmp_path / "set" / "images.tar").stat().st_size)
    assert f"user/set/images.tar ({size}) is fetched whole" in found["said"]


def test_what_the_bare_command_makes_of_mmpr_on_the_hub(hub, tmp_path):
    fixture = mmpr_published(tmp_path / "set")
    hub.publish("OpenGVLab/MMPR-v1.2", tmp_path / "set", card="license: mit")
    found = convert(hub, tmp_path / "home", "OpenGVLab/MMPR-v1.2", tmp_path / "out", "--workers", "1")
    rows = {row["id"]: row for row in iter_rows(tmp_path / "out")}
    assert {name: [image["bytes"] for image in row["images"]] for name, row in rows.items()} == {
        name: expected.images for name, expected in fixture.rows.items()
    }
    assert found["text_only"] == 1
    assert "images    images.zip in 2 parts" in found["said"] and "annotations.zip (" not in found["said"]
    assert read_record(tmp_path / "out")["source"]["name"] == "mmpr"


@pytest.mark.parametrize("more", [(), ("--limit", "2")])
def test_images_that_lie_in_the_repository_are_found(more, hub, tmp_path):
    pair = {"prompt": "What?", "chosen": "A cat. It sleeps.", "rejected": "A dog. It runs."}
    (tmp_path / "set" / "photos" / "[a]").mkdir(parents=True)
    for name in ("photos/[a]/1.png", "photos/2.png"):
        (tmp_path / "set" / name).write_bytes(png(int(name[-5])))
    rows = [{**pair, "image": name} for name in ("photos/[a]/1.png", "photos/2.png", "photos/3.png")]
    write_lines(tmp_path / "set" / "train.jsonl", rows)
    hub.publish("user/set", tmp_path / "set")
    arguments = ("user/set", tmp_path / "out", "--workers", "1", "--max-bad", "50%", *more)
    found = convert(hub, tmp_path / "home", *arguments)
    assert [row["images"][0]["bytes"] for row in iter_rows(tmp_path / "out")] == [png(1), png(2)]
    assert found["rejected"] == (0 if more else 1)


def test_an_out_that_is_in_the_way_is_met_before_anything_is_downloaded(hub, tmp_path):
    rlaif_v(tmp_path / "set", rows=30, defects=False)
    hub.publish("user/set", tmp_path / "set")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    assert "exists already" in convert(hub, tmp_path / "home", "user/set", tmp_path / "out", code=2)
    assert not list((tmp_path / "home").rglob("*.parquet"))


def test_a_busy_hub_is_asked_again(hub, tmp_path):
    rlaif_v(tmp_path / "set", rows=4, defects=False)
    hub.publish("user/set", tmp_path / "set")
    hub.be_busy(429, 503)
    assert convert(hub, tmp_path / "home", "user/set", tmp_path / "out", "--workers", "1")["rows"] == 4


def test_offline_the_cache_is_read_with_its_commit_and_card(hub, tmp_path):
    rlaif_v(tmp_path / "set", rows=4, defects=False)
    commit = hub.publish("user/set", tmp_path / "set", card="license: cc-by-nc-4.0")
    address = f"hf://datasets/user/set@{commit}"
    convert(hub, tmp_path / "home", address, tmp_path / "one", "--workers", "1")
    before = len(hub.requests)
    found = convert(hub, tmp_path / "home", address, tmp_path / "two", "--workers", "1", HF_HUB_OFFLINE="1")
    assert found["rows"] == 4 and len(hub.requests) == before
    one, two = (read_record(tmp_path / name)["source"] for name in ("one", "two"))
    assert two == one and two["revision"] == commit and two["license"] == "cc-by-nc-4.0"


def test_a_cache_that_lacks_files_of_a_series_is_refused(hub, tmp_path):
    (tmp_path / "set" / "data").mkdir(parents=True)
    table = pa.table({"prompt": ["Q?"], "chosen": ["A. B."], "rejected": ["C. D."]})
    for index in range(2):
        pq.write_table(table, tmp_path / "set" / "data" / f"train-{index:05}-of-00002.parquet")
    hub.publish("user/set", tmp_path / "set")
    convert(hub, tmp_path / "home", "user/set", tmp_path / "one", "--workers", "1")
    next((tmp_path / "home").rglob("train-00001-of-00002.parquet")).unlink()
    refused = convert(hub, tmp_path / "home", "user/set", tmp_path / "two", code=1, HF_HUB_OFFLINE="1")
    assert "the cache holds 1 of the 2 files" in refused


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf://datasets/a/b", ("a/b", None, None)),
        ("hf://datasets/a/b@v1/data/x.parquet", ("a/b", "v1", "data/x.parquet")),
        ("https://huggingface.co/datasets/a/b", ("a/b", None, None)),
        ("https://huggingface.co/datasets/a/b/", ("a/b", None, None)),
        ("https://huggingface.co/datasets/a/b/tree/main/data", ("a/b", "main", "data")),
        ("https://huggingface.co/datasets/a/b/blob/refs%2Fpr%2F2/x.jsonl", ("a/b", "refs/pr/2", "x.jsonl")),
        ("https://hf.co/datasets/a/b?row=1", ("a/b", None, None)),
        ("a/b", None),
        ("https://huggingface.co/a/b", None),
    ],
)
def test_addresses_of_datasets(source, expected):
    assert parse_address(source) == expected


def test_an_address_elsewhere_is_refused():
    with pytest.raises(UsageError, match="not an address of the Hub"):
        parse_address("https://example.org/datasets/a/b")
