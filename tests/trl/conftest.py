"""Tiny models and drawn data, made once."""

from __future__ import annotations

import os

os.environ.update(
    CUDA_VISIBLE_DEVICES="",
    HF_HUB_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    DO_NOT_TRACK="1",
)

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones, data

# Kernels of linear attention run on GPUs alone; without them transformers takes torch's way.
sys.modules["fla"] = None  # type: ignore[assignment]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model by its name, built at first use."""
    folder = tmp_path_factory.mktemp("models")
    return lambda name: backbones.build(name, folder / name)


@pytest.fixture(scope="session")
def processing(model: Callable[[str], Path]) -> Callable[[str], Any]:
    """Its processor, or the tokenizer of the text-only model."""
    from transformers import AutoProcessor

    loaded: dict[str, Any] = {}
    return lambda name: (
        loaded.get(name) or loaded.setdefault(name, AutoProcessor.from_pretrained(model(name)))
    )


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    """Rows of `tests.support.data` as `load_dataset` gives a converted folder."""
    import tempfile

    from datasets import load_dataset

    with tempfile.TemporaryDirectory() as folder:
        data.write_converted(folder, rows)
        return load_dataset(folder, split="train", cache_dir=f"{folder}/cache", keep_in_memory=True)
