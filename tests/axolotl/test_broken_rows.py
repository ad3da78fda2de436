"""Axolotl reads the broken set as every host must: see `tests.support.broken`; and a broken file is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.axolotl import prepared
from tests.support import broken, data


def test_broken_rows_are_refused_as_in_every_host(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, expected = broken.rows(tmp_path / "files")
    folder = data.write_converted(tmp_path / "broken", rows)
    seen: list[Any] = []
    original = prepared.prepared_splits
    monkeypatch.setattr(prepared, "prepared_splits", lambda cfg: seen.append(original(cfg)) or seen[-1])
    command("preprocess", datasets=[{"path": str(folder)}])
    [(train, _)] = seen
    assert len(train) == len(rows) - len(expected)
    broken.check("axolotl", tmp_path / "out" / "aspo_rejected.jsonl", rows, expected)

    [file] = Path(folder).rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(
        ValueError, match=f"dataset {folder} cannot be read, file {file}: Parquet .*Mend the file"
    ):
        command("preprocess", datasets=[{"path": str(folder)}])
