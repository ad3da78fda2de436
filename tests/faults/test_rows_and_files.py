"""One odd row is one refused row, one odd file is one message: no traceback, whatever a source holds."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_tools.dataset.schema import iter_rows
from dataset_tools.errors import DataError, UsageError
from tests.faults.mutate import mutated_bytes, mutated_row
from tests.support import converted, data
from tests.support.sources import rlaif_v

Convert = Callable[..., Any]
GOOD = {"prompt": "Why?", "chosen": "It is so. It was.", "rejected": "No."}
SHARE = {
    "conversations": [{"from": "human", "value": "Why?"}],
    "chosen": {"from": "gpt", "value": "It is so. It was."},
    "rejected": {"from": "gpt", "value": "No."},
}
ALPACA = {"instruction": "Why?", "input": "", "chosen": "It is so. It was.", "rejected": "No."}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_bytes(
        b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows) + b"\n"
    )
    return path


ROWS = {
    "system is a number": (SHARE, {**SHARE, "system": 5}),
    "history is a number": (ALPACA, {**ALPACA, "history": 5}),
    "history holds numbers": (ALPACA, {**ALPACA, "history": [[1, 2]]}),
    "a null message": (SHARE, {**SHARE, "conversations": [None]}),
    "a role that is no text": (SHARE, {**SHARE, "conversations": [{"from": [5], "value": "x"}]}),
    "a role with HTML": (
        SHARE,
        {**SHARE, "conversations": [{"from": "<script>alert(1)</script>", "value": "x"}]},
    ),
    "an answer of lists": (GOOD, {**GOOD, "chosen": [[["x"]]]}),
    "not a number": (GOOD, {**GOOD, "chosen": float("nan")}),
    "no Unicode": (GOOD, {**GOOD, "chosen": "a\ud800b. c."}),
    "no UTF-8": (GOOD, b'{"prompt": "Why?", "chosen": "\xff\xfe", "rejected": "No."}'),
    "no JSON": (GOOD, b'{"prompt": "Why?"'),
    "a list": (GOOD, ["prompt", "chosen"]),
    "null": (GOOD, None),
    "nested deeply": (GOOD, b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "nested less deeply": (
        GOOD,
        b'{"prompt": ' + b"[" * 400 + b"]" * 400 + b', "chosen": "a", "rejected": "b"}',
    ),
    "an endless number": (GOOD, b'{"prompt": "x", "chosen": ' + b"9" * 10_000 + b', "rejected": "b"}'),
    "images of odd kinds": (SHARE, {**SHARE, "images": [None, 5, {"bytes": "x"}, [[]]]}),
    "an image path with a zero": (SHARE, {**SHARE, "images": ["a\0b.png"]}),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_odd_row_is_refused(name: str, tmp_path: Path, convert: Convert) -> None:
    good, odd = ROWS[name]
    tally = convert(
        write_lines(tmp_path / "pairs.jsonl", [good, odd, good]), tmp_path / "out", number_rows=True
    )
    assert (tally.read, tally.rows, tally.rejected) == (3, 2, 1)
    [line] = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["row"].endswith(":1")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("base", [GOOD, SHARE, ALPACA], ids=["trl", "sharegpt", "alpaca"])
def test_many_odd_rows(base: dict[str, Any], seed: int, tmp_path: Path, convert: Convert) -> None:
    chance = random.Random(f"{seed} {sorted(base)}")
    rows = [base] * 3 + [mutated_row({**base, "images": None}, chance) for _ in range(200)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    tally = convert(path, tmp_path / "out", number_rows=True)
    assert tally.read == 203 and tally.rows >= 3 and tally.rejected > 20
    for row in iter_rows(tmp_path / "out"):
        json.dumps(row["prompt"])


@pytest.mark.parametrize("value", [b"\xff\xfe", 2**62])
def test_a_parquet_value_that_python_does_not_take(value: Any, tmp_path: Path, convert: Convert) -> None:
    if isinstance(value, bytes):
        odd = pa.Array.from_buffers(
            pa.string(), 3, pa.array([b"a. b.", value, b"c. d."], pa.binary()).buffers()
        )
        columns = {"prompt": ["x", "y", "z"], "chosen": odd, "rejected": ["n", "n", "n"]}
    else:
        odd = pa.array([0, value, 0], pa.timestamp("us"))  # beyond the year 9999
        columns = {
            "prompt": ["x"] * 3,
            "chosen": ["a. b.", "b. c.", "c. d."],
            "rejected": ["n"] * 3,
            "when": odd,
        }
    pq.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    tally = convert(tmp_path / "pairs.parquet", tmp_path / "out", number_rows=True)
    assert (tally.read, tally.rows, tally.rejected) == (3, 2, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    rlaif_v(folder / "parquet", rows=24)
    [parquet, *_] = sorted((folder / "parquet").rglob("*.parquet"))
    lines = write_lines(folder / "pairs.jsonl", [GOOD] * 10)
    (folder / "array.json").write_text(json.dumps([SHARE] * 10))
    return {
        "parquet": parquet.read_bytes(),
        "jsonl": lines.read_bytes(),
        "json": (folder / "array.json").read_bytes(),
    }


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json"])
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_a_message_or_refused_rows(
    kind: str, seed: int, files: dict[str, bytes], tmp_path: Path, convert: Convert
) -> None:
    path = tmp_path / f"train.{kind}"
    path.write_bytes(mutated_bytes(files[kind], random.Random(f"{kind} {seed}")))
    try:
        tally = convert(path, tmp_path / "out", number_rows=True)
    except (DataError, UsageError) as error:
        assert 10 < len(str(error)) < 4000
        assert not re.search(r"0x[0-9a-f]{6,}", str(error))
    else:
        assert sum(1 for _ in iter_rows(tmp_path / "out")) == tally.rows


ODD_INFO = [
    b"",
    b"[]",
    b"null",
    b"5",
    b"\xff",
    b'{"a": null}',
    b'{"a": {"columns": 5}}',
    b'{"a": {"file_name": "pairs.jsonl", "columns": 5}}',
    b'{"a": {"file_name": "pairs.jsonl", "columns": {"chosen": 5}}}',
    b'{"a": {"file_name": "pairs.jsonl", "tags": ["x"]}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("info", ODD_INFO, ids=range(len(ODD_INFO)))
def test_an_odd_dataset_info(info: bytes, tmp_path: Path, convert: Convert) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "dataset_info.json").write_bytes(info)
    path = write_lines(tmp_path / "in" / "pairs.jsonl", [SHARE] * 3)
    try:
        convert(path, tmp_path / "out", number_rows=True)
    except (DataError, UsageError) as error:
        assert "dataset_info.json" in str(error)


def test_a_line_that_would_take_gigabytes_is_refused(tmp_path: Path, convert: Convert) -> None:
    long = b'{"prompt": [' + b"[]," * (20 << 20) + b'[]], "chosen": "a", "rejected": "b"}'
    tally = convert(
        write_lines(tmp_path / "pairs.jsonl", [GOOD, long, GOOD]), tmp_path / "out", number_rows=True
    )
    assert (tally.rows, tally.rejected) == (2, 1)
    assert "longer than" in (tmp_path / "out" / "rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.decode().encode("utf-16"), "UTF-16"),
        (lambda text: text.decode().encode("utf-16-le"), "UTF-16"),
        (gzip.compress, "gzip"),
        (lambda text: text.replace(b"\n", b"\r"), "carriage returns"),
    ],
)
def test_a_file_that_seems_to_hold_no_rows_says_what_it_is(
    change: Callable[[bytes], bytes], says: str, tmp_path: Path, convert: Convert
) -> None:
    path = write_lines(tmp_path / "pairs.jsonl", [GOOD] * 200)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=says):
        convert(path, tmp_path / "out")
    packed = tmp_path / "whole.jsonl.gz"
    packed.write_bytes(gzip.compress(write_lines(path, [GOOD] * 5).read_bytes()))
    assert convert(packed, tmp_path / "unpacked", number_rows=True).rows == 5


def test_many_columns_are_a_short_message(tmp_path: Path, aspo_data: Any) -> None:
    row = {f"column number {n}": "x" for n in range(100_000)}
    path = write_lines(tmp_path / "pairs.jsonl", [row])
    told = aspo_data("convert", path, tmp_path / "out", code=2)
    assert len(told.stderr) < 5000


NULLS = {
    "id": [None, ""],
    "images": [None, [None], [{"bytes": None, "path": None}]],
    "prompt": [None, [], [None], [{"role": None, "content": None}], [{"role": "user", "content": None}]],
    "chosen": [None, [], [None], [None, None], [{"role": None, "content": None}]],
    "chosen_sentences": [None, [], [None], [{"start": None, "end": None}], [{"start": -5, "end": 2**31 - 1}]],
    "chosen_similarity": [None, [], [None], [float("nan")], [float("inf")], [1e9]],
}


@pytest.mark.parametrize("column", NULLS)
def test_nulls_of_a_strangers_dataset_are_problems_not_errors(column: str) -> None:
    """Any value that the schema lets in."""
    from dataset_tools.dataset.schema import invariants
    from dataset_tools.inspect.stats import problems_of

    row: dict[str, Any] = {
        "id": "a",
        "images": [],
        "prompt": [{"role": "user", "content": "x"}],
        "source": "s",
    }
    for name in ("chosen", "rejected"):
        row |= {name: [{"role": "assistant", "content": f"{name}."}], f"{name}_similarity": None}
        row |= {f"{name}_sentences": [{"start": 0, "end": len(name) + 1}]}
    assert invariants(row) == []
    for value in NULLS[column]:
        assert isinstance(invariants({**row, column: value}), list)
        assert isinstance(problems_of({**row, column: value}), list)


@pytest.mark.parametrize("change", ["renamed", "retyped"])
def test_another_column_in_one_shard_is_a_message(change: str, tmp_path: Path, aspo_data: Any) -> None:
    """As a flipped byte of a footer makes it, which has no checksum: every command names the file."""
    folder = converted.write(tmp_path / "whole", [data.rows(3, 1), data.rows(3, 2)])
    path = folder / "data" / "train-00001-of-00002.parquet"
    table = pq.read_table(path)
    if change == "renamed":
        names = {"chosen_sentences": "chosen_sentence{"}
        table = table.rename_columns([names.get(name, name) for name in table.column_names])
    else:
        at = table.column_names.index("chosen_sentences")
        table = table.set_column(at, "chosen_sentences", pa.array([[1]] * 3))
    pq.write_table(table, path)
    for command in (
        ["stats", folder],
        ["preview", folder, "--html", tmp_path / "page.html", "--rows", "6"],
        ["export", folder, tmp_path / "lf", "--to", "llamafactory"],
        ["validate", folder, "--workers", "1"],
    ):
        said = aspo_data(*command, code=1).output
        assert path.name in said and "chosen_sentences" in said and "Traceback" not in said
