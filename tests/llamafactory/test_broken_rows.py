"""LLaMA-Factory reads the broken set as every host must: see `tests.support.broken`; a file's fault, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import broken

from .conftest import write_sets
from .test_data import load

__all__ = ["load"]


def test_broken_rows_are_refused_as_in_every_host(load: Any, tmp_path: Path) -> None:
    rows, expected = broken.rows(tmp_path / "files")
    write_sets(tmp_path, {"broken": rows})
    module = load(tmp_path, "broken")
    assert len(module["train_dataset"]) == len(rows) - len(expected)
    broken.check("llamafactory", module["refused_rows"].path, rows, expected)

    file = tmp_path / "broken" / "data" / "train-00000.parquet"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match=f"dataset broken cannot be read, file {file}: .*Mend the file"):
        load(tmp_path, "broken")
