"""`convert --engine ray` without Ray: made in any order, twice or after a stop, it is what one machine makes.

`tests/score/test_ray_convert.py` does it on a real cluster.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset_tools.cli import app
from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.convert.from_parts import Plan, Shard, ShardMaker
from dataset_tools.convert.parts import Range, Work
from dataset_tools.convert.source_identity import file_digest
from dataset_tools.errors import DataError, UsageError
from dataset_tools.sources import Options
from tests.data.test_convert import Crash, content, crash_at
from tests.support.sources import BUILDERS, rlaif_v


class Pretended:
    """A cluster whose workers get what they know by pickle, the pieces in any order, some of them twice."""

    def __init__(self, seed: int = 0, stop_after: int | None = None):
        self._chance, self._left = random.Random(seed), stop_after
        self.pieces: list[Any] = []

    def spread(
        self, worker: Callable[[], Callable[[Any], Any]], pieces: Iterable[Any], on_each_cpu: bool = False
    ) -> Iterator[Any]:
        assert on_each_cpu
        waiting = list(pieces)
        self._chance.shuffle(waiting)
        workers = [pickle.loads(pickle.dumps(worker))() for _ in range(2)]
        for piece in waiting:
            if self._left == 0:
                raise Crash
            self._left = None if self._left is None else self._left - 1
            for call in workers[: self._chance.choice((1, 1, 2))]:
                done = call(pickle.loads(pickle.dumps(piece)))
            self.pieces.append(piece)
            yield done


def run(source: Path, out: Path, cluster: Pretended | None = None, **settings: Any) -> Any:
    return Conversion(Settings(**{"source": str(source), "out": out, **settings})).run(cluster=cluster)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.mark.parametrize("name", BUILDERS)
def test_every_layout_gives_the_same_files(name, tmp_path):
    fixture = BUILDERS[name](tmp_path / "source")
    settings = {**fixture.settings, "shard_rows": 2}
    alone = run(fixture.path, tmp_path / "alone", **settings)
    cluster = Pretended(seed=len(name))
    assert run(fixture.path, tmp_path / "shared", cluster, **settings) == alone
    assert content(tmp_path / "shared") == content(tmp_path / "alone")
    assert len(cluster.pieces) >= 2


def photo(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 251, 3, 5)).save(stream, "PNG")
    return stream.getvalue()


def pair(number: int) -> dict[str, str]:
    """Ids repeat, within a file and over files; some rows lack an answer, or their image is not there."""
    return {
        "id": f"row-{number % 37}",
        "prompt": f"What is in picture {number}?",
        "chosen": "" if number % 11 == 3 else f"It shows {number} cats. They sleep.",
        "rejected": f"It shows {number} dogs. They run.",
        "images": f"pictures/{number % 23 if number % 13 else 'nothing'}.png",
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Files of every kind that is read in another way, images in a zip beside them and loose elsewhere."""
    folder = tmp_path_factory.mktemp("mixed") / "set"
    folder.mkdir()
    rows = [pair(number) for number in range(130)]
    pq.write_table(pa.Table.from_pylist(rows[:41]), folder / "a.parquet", row_group_size=3)
    lines = [json.dumps(row) for row in rows[41:60]]
    (folder / "b.jsonl").write_text("\n".join([*lines[:5], "", "{", *lines[5:]]), encoding="utf-8")
    with gzip.open(folder / "c.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.write("\n".join(json.dumps(row) for row in rows[60:80]))
    (folder / "d.json").write_text(json.dumps(rows[80:101]), encoding="utf-8")
    with open(folder / "e.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows[101:])
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for number in range(20):
            archive.writestr(f"pictures/{number}.png", photo(number))
    elsewhere = folder.with_name("elsewhere") / "pictures"
    elsewhere.mkdir(parents=True)
    for number in range(20, 23):
        (elsewhere / f"{number}.png").write_bytes(photo(number))
    return folder


ALL = {"kind": "jsonl", "files": ["*"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"shard_rows": 7},
        {"shard_rows": 4, "number_rows": True},
        {"shard_rows": 5, "limit": 57, "number_rows": True},
        {"shard_rows": 10, "limit": 95},
        {"shard_rows": 9, "options": Options(columns={"prompt": "rejected", "rejected": "prompt"})},
        {"shard_rows": 1000},
    ],
)
def test_all_kinds_of_files_and_settings_give_the_same_files(settings, mixed, tmp_path, monkeypatch):
    monkeypatch.chdir(mixed.parent)
    settings = {**ALL, "image_roots": [Path("elsewhere")], **settings}
    alone = run(mixed, tmp_path / "alone", **settings)
    cluster = Pretended(seed=3)
    assert run(mixed, tmp_path / "shared", cluster, **settings) == alone
    made = content(tmp_path / "shared")
    assert made == content(tmp_path / "alone")
    assert b"image file not found" in made["rejected.jsonl"] and b"b.jsonl:6" in made["rejected.jsonl"]
    if not settings.get("number_rows"):
        assert b"duplicate id" in made["rejected.jsonl"]
    assert len(cluster.pieces) > 4


def test_repeated_rows_of_vlfeedback_are_left_out_and_kept_alike(tmp_path):
    fixture = BUILDERS["vlfeedback"](tmp_path / "source")
    for keep in (True, False):
        settings = {**fixture.settings, "shard_rows": 3, "keep_repeated_ids": keep}
        alone, shared = tmp_path / f"alone-{keep}", tmp_path / f"shared-{keep}"
        assert run(fixture.path, alone, **settings) == run(fixture.path, shared, Pretended(), **settings)
        assert content(alone) == content(shared)


def test_killed_before_any_step_and_taken_up(tmp_path):
    """As `test_a_crash_before_any_step_is_taken_up` of one machine, with the ids of some rows repeated."""
    rlaif_v(tmp_path / "source", rows=50)
    settings = {"shard_rows": 20}
    run(tmp_path / "source", tmp_path / "whole", **settings)
    whole, number = content(tmp_path / "whole"), 0
    while True:
        number += 1
        out = tmp_path / f"out-{number}"
        with pytest.MonkeyPatch.context() as patch:
            counter = crash_at(patch, number)
            try:
                run(tmp_path / "source", out, Pretended(number), **settings)
            except Crash:
                pass
        run(tmp_path / "source", out, Pretended(number), **settings, resume=True)
        assert content(out) == whole, number
        assert {path.name for path in tmp_path.iterdir() if path.name.startswith(out.name)} == {out.name}
        if counter.calls < number:
            break
    assert number > 30


def test_what_is_whole_is_not_made_again(mixed, tmp_path, monkeypatch):
    settings = {**ALL, "shard_rows": 7}
    run(mixed, tmp_path / "alone", **settings)
    first = Pretended()
    run(mixed, tmp_path / "first", first, **settings)
    kinds = [type(piece) for piece in first.pieces]
    parts, shards = kinds.count(Range), kinds.count(Shard)
    counted = len(kinds) - parts - shards
    written: set[Path] = set()

    def make(maker: ShardMaker, path: Path, plan: Plan, way: Any = ShardMaker._make) -> None:
        written.add(path)
        way(maker, path, plan)

    monkeypatch.setattr(ShardMaker, "_make", make)
    for done_parts, done_shards in ((parts // 2, 0), (parts, shards // 2)):
        out = tmp_path / f"out-{done_parts}"
        with pytest.raises(Crash):
            run(mixed, out, Pretended(stop_after=counted + done_parts + done_shards), **settings)
        written.clear()
        again = Pretended()
        run(mixed, out, again, **settings, resume=True)
        assert content(out) == content(tmp_path / "alone")
        assert sum(isinstance(piece, Range) for piece in again.pieces) == parts - done_parts
        assert len(written) == shards - done_shards


def test_a_cluster_goes_on_with_what_one_machine_began_but_not_the_other_way(tmp_path):
    rlaif_v(tmp_path / "source", rows=70)
    run(tmp_path / "source", tmp_path / "whole", shard_rows=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dataset_tools.convert.run.file_digest", dying_at(3))
        with pytest.raises(Crash):
            run(tmp_path / "source", tmp_path / "out", shard_rows=20)
    cluster = Pretended()
    run(tmp_path / "source", tmp_path / "out", cluster, shard_rows=20, resume=True)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert min(piece.number for piece in cluster.pieces if hasattr(piece, "number")) == 2

    with pytest.raises(Crash):
        run(tmp_path / "source", tmp_path / "other", Pretended(stop_after=2), shard_rows=20)
    with pytest.raises(UsageError, match="was begun with --engine ray: go on with it, or remove"):
        run(tmp_path / "source", tmp_path / "other", shard_rows=20, resume=True)
    run(tmp_path / "source", tmp_path / "other", Pretended(), shard_rows=20, resume=True)
    assert content(tmp_path / "other") == content(tmp_path / "whole")


def dying_at(number: int) -> Callable[[Path], str]:
    calls = iter(range(1, 1000))

    def digest(path: Path) -> str:
        if next(calls) == number:
            raise Crash
        return file_digest(path)

    return digest


def test_a_source_without_a_usable_row_leaves_its_list_and_no_folder(tmp_path):
    rows = [{**pair(number), "chosen": ""} for number in range(9)]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for cluster, name in ((None, "alone"), (Pretended(), "shared")):
        with pytest.raises(DataError, match="no row of 9 could be used"):
            run(tmp_path / "set.jsonl", tmp_path / name, cluster, kind="jsonl", shard_rows=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        "set.jsonl",
        "alone.rejected.jsonl",
        "shared.rejected.jsonl",
    }


def test_a_part_that_was_cut_is_told(mixed, tmp_path):
    class Cutting(Pretended):
        def spread(self, *arguments: Any, **named: Any) -> Iterator[Any]:
            yield from super().spread(*arguments, **named)
            first = tmp_path / "out.incomplete" / "parts" / "00000.jsonl"
            if first.exists():
                first.write_text("".join(first.read_text().splitlines(keepends=True)[:-1]))

    with pytest.raises(DataError, match="does not hold all rows of a.parquet:0 to"):
        run(mixed, tmp_path / "out", Cutting(), **ALL, shard_rows=7)


def test_a_machine_without_the_folders_is_told(mixed, tmp_path, monkeypatch):
    class Elsewhere(Pretended):
        def spread(self, worker: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
            work: Work = worker.args[0]
            object.__setattr__(work, "image_roots", [Path("/nowhere")])
            return super().spread(worker, *arguments, **named)

    with pytest.raises(
        UsageError, match="/nowhere is not on .*, a machine of the cluster: source, images and"
    ):
        run(mixed, tmp_path / "out", Elsewhere(), **ALL, shard_rows=7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--address", "10.0.0.1:6379"], "--address 10.0.0.1:6379 is a Ray cluster's: add --engine ray"),
        (
            ["--engine", "ray", "--workers", "3"],
            "--workers 3 is of this machine: --engine ray has one on each",
        ),
    ],
)
def test_what_a_cluster_does_not_do_is_one_message_before_ray_starts(arguments, message, mixed, tmp_path):
    done = CliRunner().invoke(app, ["convert", str(mixed), str(tmp_path / "out"), *arguments])
    assert done.exit_code == 2 and message in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())
