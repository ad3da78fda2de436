"""A source, a conversion that stops half-way, and the command line against a stand-in Hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataset_tools.convert.conversion import Conversion, Settings
from tests.data.test_hub import aspo_data, hub
from tests.support.sources import rlaif_v

__all__ = ["aspo_data", "hub"]


class Stopped(Exception):
    """What ends a conversion half-way."""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files of 150 rows each."""
    folder = tmp_path / "source"
    rlaif_v(folder, rows=300)
    return folder


@pytest.fixture
def convert() -> Callable[..., Any]:
    """`convert(source, out, stop_after=None, **settings)`: a conversion in this process."""

    def run(source: Path | str, out: Path, stop_after: int | None = None, **settings: Any) -> Any:
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            if stop_after is not None and done >= stop_after:
                raise Stopped

        conversion = Conversion(Settings(str(source), out, **{"shard_rows": 20, **settings}))
        if stop_after is None:
            return conversion.run(advance)
        with pytest.raises(Stopped):
            conversion.run(advance)
        return None

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep what a whole run of this folder tried: one line a test, one number a case."""
    from tests.faults import table

    here = Path(__file__).parent
    whole = {path.name for path in here.glob("test_*.py")}
    counts: dict[str, dict[str, list[int]]] = {}
    files = set()
    for item in session.items:
        if item.path.parent != here or not isinstance(item, pytest.Function):
            continue
        files.add(item.path.name)
        kind = (item.module.__doc__ or item.path.name).partition("\n")[0].rstrip(".").replace("|", "")
        name = item.originalname.removeprefix("test_").replace("_", " ")
        entry = counts.setdefault(kind, {}).setdefault(name, [0, 0])
        outcome = item.stash.get(OUTCOME, None)
        if outcome is not None:
            entry[0] += 1
            entry[1] += outcome
    if (
        files == whole
        and not session.config.option.keyword
        and not getattr(session.config.option, "lf", False)
    ):
        table.save(counts)


OUTCOME = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call" and not report.skipped:
        item.stash[OUTCOME] = report.passed
    elif report.failed:
        item.stash[OUTCOME] = False
    return report


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
