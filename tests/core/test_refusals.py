"""The gate of the row readers, and the table of reasons that the documentation repeats."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.training.refusals import (
    REASONS,
    RefusedRow,
    StopRun,
    dataset_faults,
    explained,
    message,
    printable,
    read_row,
)
from aspo_plugin.training.refused_rows import FIELDS, excerpt, refused_line, refused_row

ROOT = Path(__file__).resolve().parents[2]


def raising(error: BaseException) -> Any:
    def read() -> None:
        raise error

    return read


def test_whatever_a_row_raises_refuses_that_row() -> None:
    assert read_row(lambda row: row + 1, 1) == 2
    for error in (
        KeyError("a"),
        RecursionError("deep"),
        OSError("gone"),
        AssertionError(),
        ValueError("odd"),
    ):
        found = read_row(raising(error))
        assert isinstance(found, RefusedRow) and found.reason == "unread"
        assert found.detail.startswith(type(error).__name__)
    known = RefusedRow("image", "why")
    assert read_row(raising(known)) is known
    for error in (StopRun("all"), MemoryError(), KeyboardInterrupt()):  # these are not one row's
        with pytest.raises(type(error)):
            read_row(raising(error))
    again = pickle.loads(pickle.dumps(known))  # from a worker process
    assert (again.reason, again.detail) == ("image", "why")


def test_a_refused_row_is_one_line_whatever_it_holds() -> None:
    for value in (
        None,
        5,
        [],
        [None],
        [5],
        {},
        {"content": 5},
        [{"content": [{"text": 5}, None]}],
        "x" * 999,
    ):
        row = refused_row(RefusedRow("empty"), "set", 3, True, value, value)
        line = refused_line(row, "training", "cutoff_len")
        assert tuple(line) == FIELDS and line["id"] is None and len(line["prompt"]) <= 120
    assert excerpt([{"content": "a"}, {"content": [{"text": "b"}, {"type": "image"}]}]) == "b"
    assert printable("one\x1b[31m \ud800\ntwo") == "one\ufffd[31m \ufffd"
    assert explained([row, row], "cutoff_len") == "2 × a response is empty"


def test_a_fault_of_a_file_is_one_message_and_a_host_s_own_stays() -> None:
    with (
        pytest.raises(StopRun, match="dataset many cannot be read: inner. Mend the file"),
        dataset_faults("many"),
    ):
        raise RuntimeError("outer") from ValueError("inner.")
    for error in (ValueError("no such split"), FileNotFoundError("gone"), StopRun("all")):
        with pytest.raises(type(error), match=str(error)), dataset_faults("many"):
            raise error


def test_the_page_lists_the_reasons() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("\n| `turns`")
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", "".join(page[1:]), re.MULTILINE))
    assert {code: text.replace("`<", "<").replace(">`", ">") for code, text in listed.items()} == {
        code: message(code, "LIMIT") for code in REASONS
    }
    for limit in ("cutoff_len", "sequence_len", "max_length"):
        assert all(limit in message(code, limit) for code in ("image_tokens", "media_tokens", "too_long"))
    assert "`image_max_pixels`" in message("image_tokens", "cutoff_len")
