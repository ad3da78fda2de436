"""A converted dataset that a stranger published, read by LLaMA-Factory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aspo_plugin.llamafactory.converter import AspoDatasetConverter
from aspo_plugin.training.image_check import UnreadableImage, readable_size
from tests.support import data


def test_a_path_in_a_converted_dataset_is_never_opened(tmp_path) -> None:
    [row] = data.rows(1)
    converter = AspoDatasetConverter(SimpleNamespace(load_from="file"), SimpleNamespace(media_dir="."))
    [held] = converter(row)["_images"]
    assert held == row["images"][0] and readable_size(held)
    path = tmp_path / "mine.png"
    path.write_bytes(row["images"][0]["bytes"])
    [named] = converter({**row, "images": [{"bytes": None, "path": str(path)}]})["_images"]
    with pytest.raises(UnreadableImage, match="empty"):
        readable_size(named)
    assert converter({**row, "images": None})["_images"] is None
