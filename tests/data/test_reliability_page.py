"""The page on reliability names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_that_the_page_names():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", page)
    assert len(named) > 40
    gone = [
        f"{file}::{name}"
        for file, name in named
        if f"def test_{name}(" not in (ROOT / "tests" / file).read_text()
    ]
    assert gone == []
    found = re.findall(r"^\| (\d+) \|", page.partition("What the attack found")[2], re.MULTILINE)
    assert found == [str(number) for number in range(1, 19)]


def test_the_files_that_the_page_names():
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert named and [name for name in sorted(named) if not (ROOT / name).is_file()] == []
