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

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import catalog, hosts, table

# Kernels of linear attention, for GPUs alone: hidden before any test builds a model that would bind them.
sys.modules["fla"] = None  # type: ignore[assignment]

_TABLE: list[table.Row] = []


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `models/` and `dataset/`. Made in a child, so that this process stays fit for forking."""
    folder = tmp_path_factory.mktemp("recipes")
    host = hosts.installed_host()
    assert host
    hosts.preload(host)

    def prepare() -> None:
        catalog.write_dataset(folder / "dataset", sentences=(3, 4))
        for recipe in catalog.recipes_of(host):
            catalog.built(recipe.tiny, folder / "models")

    hosts.forked(prepare, folder / "prepare")
    return folder


@pytest.fixture
def row() -> Any:
    """`with row(recipe, host, architecture, processes):` adds a row to the table."""

    @contextmanager
    def timed(
        name: str, host: str, architecture: str, processes: str = "1", outcome: str = "trained"
    ) -> Iterator[None]:
        began, status = time.monotonic(), "FAILED"
        try:
            yield
            status = outcome
        finally:
            seconds = round(time.monotonic() - began)
            _TABLE.append(table.Row(name, host, architecture, processes, status, seconds))

    return timed


def pytest_terminal_summary(terminalreporter: Any) -> None:
    host = hosts.installed_host()
    if _TABLE and host:
        table.save(host, _TABLE)
        terminalreporter.section("recipes")
        terminalreporter.write_line(table.markdown(_TABLE))
