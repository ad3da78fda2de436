"""One import of the host, tiny models and data for all recipes, and the table at the end."""

from __future__ import annotations

import os

os.environ.update(
    AXOLOTL_DO_NOT_TRACK="1",
    CUDA_VISIBLE_DEVICES="",
    DO_NOT_TRACK="1",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import catalog, hosts

# Rows of the table: recipe, host, architecture, processes, status, seconds.
_TABLE: list[tuple[str, str, str, str, str, float]] = []


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models/` and `dataset/`. Made in a child, so that this process stays fit for forking."""
    folder = tmp_path_factory.mktemp("recipes")
    host = hosts.installed_host()
    assert host
    hosts.preload(host)

    def prepare() -> None:
        catalog.write_dataset(folder / "dataset")
        for recipe in catalog.recipes_of(host):
            catalog.built(recipe.tiny, folder / "models")

    hosts.forked(prepare, folder / "prepare.txt")
    return folder


@pytest.fixture
def row() -> Any:
    """`with row(recipe, processes):` adds a row to the table that is printed at the end."""

    @contextmanager
    def timed(
        name: str, host: str, architecture: str, processes: str = "1", done: str = "trained"
    ) -> Iterator[None]:
        began, status = time.monotonic(), "FAILED"
        try:
            yield
            status = done
        finally:
            _TABLE.append((name, host, architecture, processes, status, time.monotonic() - began))

    return timed


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _TABLE:
        return
    terminalreporter.section("recipes")
    rows = [("recipe", "host", "architecture", "processes", "status", "seconds")]
    rows += [(*texts, f"{seconds:.1f}") for *texts, seconds in _TABLE]
    widths = [max(len(row[index]) for row in rows) for index in range(6)]
    for cells in rows:
        terminalreporter.write_line(
            "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        )
