"""Scorer tests: they need torch, which the environment of the data tools does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the scorer needs torch and transformers")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory):
    """A function from a family's name to a folder with a tiny random model of it."""
    from tests.score import encoders

    root = tmp_path_factory.mktemp("encoders")
    built: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in built:
            built[name] = encoders.build(name, root / name)
        return built[name]

    return get
