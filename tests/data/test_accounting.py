"""Whatever is wrong with the rows of any layout: each is kept, refused or left out, and those are listed."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dataset_tools.convert.conversion import Conversion, Settings
from dataset_tools.dataset.folder import Workplace
from dataset_tools.dataset.schema import invariants, iter_rows
from dataset_tools.errors import DataError
from tests.support.sources import BUILDERS

ODD = (None, "", " ", 3, [], {}, [None], ["x"], "<image>", {"role": "user"}, "x\ud800", True)


def spoiled(rows: list[Any], chance: Random) -> list[Any]:
    """The rows three times over, a value of most of them replaced or gone, or the row itself."""
    made = []
    for row in rows * 3:
        row = dict(row) if isinstance(row, dict) else row
        kind = chance.randrange(8)
        if isinstance(row, dict) and row and kind < 5:
            name = chance.choice(sorted(row))
            row[name] = chance.choice(ODD)
            if kind == 4:
                del row[name]
        elif kind == 5:
            row = chance.choice(ODD)
        made.append(row)
    return made


def spoil(file: Path, chance: Random) -> list[int]:
    """Spoil the rows of a file in place; where its rows are then. Blank lines are no rows."""
    if file.suffix == ".parquet":
        table = pq.read_table(file)
        table = pa.concat_tables([table] * 3).combine_chunks()
        columns = []
        for column in table.columns:
            nulls = pa.array([chance.randrange(9) == 0 for _ in range(len(table))])
            nothing = pa.scalar(None, column.type)
            columns.append(pc.if_else(nulls, nothing, column.chunk(0)) if column.num_chunks else column)
        pq.write_table(pa.Table.from_arrays(columns, schema=table.schema), file)
        return list(range(len(table)))
    if file.suffix == ".arrow":
        with pa.ipc.open_stream(str(file)) as reader:
            return list(range(reader.read_all().num_rows))
    if file.suffix == ".csv":
        with open(file, newline="") as stream:
            rows = list(csv.reader(stream))
        lines = [rows[0], *(row[: chance.randrange(1, 9)] for row in rows[1:] * 3)]
        with open(file, "w", newline="") as stream:
            csv.writer(stream).writerows(lines)
        return list(range(len(lines) - 1))
    packed = file.suffix == ".gz"
    text = (gzip.decompress(file.read_bytes()) if packed else file.read_bytes()).decode(
        "utf-8", "surrogateescape"
    )
    if file.suffix == ".json":
        value = json.loads(text)
        if isinstance(value, dict):
            made = {name: spoiled(rows, chance) for name, rows in value.items() if isinstance(rows, list)}
            file.write_text(json.dumps({**value, **made}, indent=2))
            made = {**value, **made}
            return list(range(sum(len(rows) if isinstance(rows, list) else 1 for rows in made.values())))
        value = spoiled(value, chance)
        file.write_text(json.dumps(value))
        return list(range(len(value)))
    lines = [json.dumps(row) for row in spoiled(list(map(_parsed, text.splitlines())), chance)]
    lines = [line if chance.randrange(9) else chance.choice(("", line[:-2], "[1]")) for line in lines]
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")
    file.write_bytes(gzip.compress(data) if packed else data)
    return [number for number, line in enumerate(lines) if line]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return line


def listed(out: Path, name: str) -> list[str]:
    path = out / name
    return [json.loads(line)["row"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", BUILDERS)
def test_every_row_is_accounted_for(name: str, seed: int, tmp_path: Path) -> None:
    fixture = BUILDERS[name](tmp_path / "source")
    given = {"source": str(fixture.path), "out": tmp_path / "out", "workers": 1, **fixture.settings}
    files = Conversion(Settings(**given)).files  # before anything is spoiled, so that the layout is seen
    kind = {"kind": fixture.name, **fixture.settings}.get("kind")
    chance = Random(f"{name} {seed}")
    root = fixture.path if fixture.path.is_dir() else fixture.path.parent
    counts = {}
    for file in files:
        if (root / file).is_file():
            counts[file] = spoil(root / file, chance)
        else:  # inside a zip file
            [archive] = [path for path in root.glob("*.zip") if file in zipfile.ZipFile(path).namelist()]
            counts[file] = list(range(len(zipfile.ZipFile(archive).read(file).splitlines())))
    conversion = Conversion(Settings(**{**given, "kind": kind, "number_rows": True}))
    assert list(conversion.files) == list(files)
    try:
        tally = conversion.run()
        rows = list(iter_rows(tmp_path / "out"))
        refused, left = (listed(tmp_path / "out", each) for each in ("rejected.jsonl", "left_out.jsonl"))
    except DataError as error:
        assert "could be used" in str(error)
        return
    everything = {f"{file}:{number}" for file, numbers in counts.items() for number in numbers}
    assert tally.read == len(everything) == tally.kept_rows + tally.refused_rows + tally.left_out_rows
    assert set(refused) | set(left) <= everything
    # A numbered row says where it is from: `file-3`, or `file-3-0` where it gives several pairs.
    starts = {place: place.replace(".gz:", ":") for place in everything}
    starts = {place: f"{Path(name.rpartition(':')[0]).with_suffix('')}-{name.rpartition(':')[2]}"
              for place, name in starts.items()}  # fmt: skip
    ids = {row["id"] for row in rows}
    multiple = {identity.rpartition("-")[0] for identity in ids}
    kept = {place for place, start in starts.items() if start in ids or start in multiple}
    if not conversion.settings.keep_repeated_ids:
        assert len(kept) == tally.kept_rows
    assert kept | set(refused) | set(left) == everything
    assert all(not invariants(row) for row in rows)


@pytest.mark.parametrize("packed", [False, True])
def test_blank_lines_are_no_rows(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"prompt": "Q?", "chosen": "Yes, it is.", "rejected": "No, it is not."}
    lines = ["", "  ", *(json.dumps({**row, "id": f"row {number}"}) for number in range(6)), "{broken", "\t"]
    lines[4:4] = ["", "\r"]
    text = "\n".join(lines) + "\n\n  "
    file = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    def converted(name: str, **more: Any) -> Conversion:
        return Conversion(Settings(str(file), tmp_path / name, kind="jsonl", shard_rows=1, workers=1, **more))

    conversion = converted("out")
    conversion.prepare()
    assert conversion.total == 7
    tally = conversion.run()
    assert (tally.read, tally.kept_rows, tally.refused_rows, tally.left_out_rows) == (7, 6, 1, 0)
    assert listed(tmp_path / "out", "rejected.jsonl") == [f"{file.name}:10"]  # its line, counted from 0
    assert not (tmp_path / "out" / "left_out.jsonl").exists()
    for limit in range(1, 7):
        assert converted(f"limit {limit}", limit=limit).run().read == limit
    write_state = Workplace.write_state
    for stop in range(1, 7):  # after each row that is written
        left = iter(range(stop))

        def once_more(place: Workplace, state: dict[str, Any], left: Any = left) -> None:
            write_state(place, state)
            if next(left, None) is None:
                raise KeyboardInterrupt

        monkeypatch.setattr(Workplace, "write_state", once_more)
        with pytest.raises(KeyboardInterrupt):
            converted("stopped").run()
        monkeypatch.setattr(Workplace, "write_state", write_state)
        assert converted("stopped", resume=True).run().as_dict() == tally.as_dict()
        for path in (path for path in (tmp_path / "out").rglob("*") if path.is_file()):
            again = tmp_path / "stopped" / path.relative_to(tmp_path / "out")
            assert path.read_bytes() == again.read_bytes()
        shutil.rmtree(tmp_path / "stopped")
