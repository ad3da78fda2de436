"""The record beside a dataset may be a stranger's: it stops no run, and is no markup on the run's card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aspo_plugin.training.files import KEPT
from aspo_plugin.training.model_card import dataset_row, scorer_of
from aspo_plugin.training.refused_rows import kept


@pytest.mark.parametrize(
    "record", [b"", b"{", b"[]", b"5", b"\xff\xfe", b"[" * 100_000, b'{"source": 5, "scorer": [1]}']
)
def test_an_odd_record_is_no_record(record: bytes, tmp_path: Path) -> None:
    (tmp_path / "aspo.json").write_bytes(record)
    assert dataset_row(str(tmp_path)) == (f"`{tmp_path.name}`", "not recorded")
    assert scorer_of(str(tmp_path)) is None


def test_its_texts_are_text(tmp_path: Path) -> None:
    evil = "x` | <img src=a> |\n# Title\x1b[31m"
    source = {"location": evil, "revision": evil}
    record = {"source": source, "scorer": {"model": evil, "revision": evil}}
    (tmp_path / "aspo.json").write_text(json.dumps(record))
    for cell in dataset_row(str(tmp_path)):
        assert not set("|\n\x1b") & set(cell)
        outside = cell.split("`")[::2]
        assert len(cell.split("`")) % 2 == 1 and "<" not in "".join(outside)
    commit = "0123456789abcdef"
    (tmp_path / "aspo.json").write_text(json.dumps({"source": {"location": "a/b", "revision": commit}}))
    assert dataset_row(str(tmp_path)) == ("`a/b`, converted by aspo-data", commit)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"counts": {}}'])
def test_a_damaged_list_of_refused_rows_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / KEPT).write_text(content)
    with pytest.raises(ValueError, match=f"{KEPT} is damaged: remove {tmp_path}"):
        kept(tmp_path)
