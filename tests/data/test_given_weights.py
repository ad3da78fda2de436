"""The lines of docs/method.md that write weights of one's own do what is said of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dataset_tools.dataset.schema import invariants, iter_rows
from dataset_tools.inspect.validate import validate
from tests.support import converted, data

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


@pytest.fixture
def functions() -> dict[str, Any]:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}
    exec(block.partition("# in `data/own`")[0], found)
    return found


def spans(*ends: int) -> list[dict[str, int]]:
    return [{"start": start, "end": end} for start, end in zip(ends[::2], ends[1::2], strict=True)]


def test_what_was_changed_counts_five_times_the_rest(functions: dict[str, Any]) -> None:
    row = {
        "chosen": [{"role": "assistant", "content": "A cat sits. It is black. It sleeps."}],
        "rejected": [{"role": "assistant", "content": "A cat sits. It is white."}],
        "chosen_sentences": spans(0, 11, 12, 24, 25, 35),
        "rejected_sentences": spans(0, 11, 12, 24),
    }
    found = functions["changed_segments"](row)
    assert found == {"chosen_similarity": [0.2, 1.0, 1.0], "rejected_similarity": [0.2, 1.0]}


def test_an_easier_pair_has_a_larger_beta(functions: dict[str, Any]) -> None:
    row = {"chosen_similarity": [0.5, 0.7], "rejected_similarity": [0.1, 0.3, 0.2]}
    found = functions["easy_pairs"](row)
    assert found["chosen_similarity"] == pytest.approx([0.7] * 2)
    assert found["rejected_similarity"] == pytest.approx([0.7] * 3)


def test_what_they_write_is_a_valid_set(functions: dict[str, Any]) -> None:
    for row in data.rows(4, 5, sentences=(2, 4)):
        for name in ("changed_segments", "easy_pairs"):
            assert not invariants({**row, **functions[name](row)})


def test_the_lines_write_a_copy_that_is_a_valid_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand on the page, images to the byte; a copy of `data/rlaif-v`."""
    rows = data.rows(4, 5, sentences=(2, 4))
    folder = converted.write(tmp_path / "data" / "own", [rows[:2], rows[2:]])
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    assert validate(folder).problems == []
    found = list(iter_rows(folder))
    for before, after in zip(rows, found, strict=True):
        assert {round(value, 6) for value in after["chosen_similarity"]} <= {0.2, 1.0}
        assert after["chosen_similarity"] != before["chosen_similarity"]
        assert [image["bytes"] for image in after["images"]] == [i["bytes"] for i in before["images"]]
        assert after["chosen_sentences"] == before["chosen_sentences"]
