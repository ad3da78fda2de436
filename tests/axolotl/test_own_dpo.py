"""What Axolotl's own DPO does with images, from the version that takes them: docs/axolotl.md says it.

A failure here is news for that page, not a fault of this package.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.axolotl import contract
from tests.support import data

pytestmark = pytest.mark.skipif(
    not contract.finds_plugins(), reason="this Axolotl trains no preferences with images"
)
DPO = {"rl": "dpo", "plugins": None, "aspo": None, "processor_type": "AutoProcessor"}


@pytest.fixture
def pairs(datasets: Path) -> list[dict[str, str]]:
    return [{"path": str(datasets / "trl"), "split": "train"}]


def test_it_trains_and_every_token_counts_alike(train: Any, pairs: Any) -> None:
    log = train(**DPO, datasets=pairs)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert not any(name.startswith("aspo/") for name in log[0])


def test_it_mixes_no_sets(command: Any, pairs: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    message = {"role": "user", "content": "And you?"}
    answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    (tmp_path / "text").mkdir()
    Dataset.from_list([{"prompt": [message], **answers}] * 4).to_parquet(tmp_path / "text" / "rows.parquet")
    both = [*pairs, {"path": str(tmp_path / "text"), "split": "train"}]
    with pytest.raises(ValueError, match="mixing image and text-only"):
        command(**DPO, datasets=both, skip_prepare_dataset=True)


def test_it_keeps_no_reference_log_probs(command: Any, pairs: Any) -> None:
    with pytest.raises(ValueError, match="precompute_ref_log_probs"):
        command(**DPO, datasets=pairs, precompute_ref_log_probs=True)


def test_it_stops_in_training_at_an_image_that_cannot_be_read(command: Any, tmp_path: Path) -> None:
    rows = data.rows(8, 4, sentences=(2, 4))
    for row in rows[1:]:
        row["images"][0]["bytes"] = row["images"][0]["bytes"][:200]
    sets = [{"path": str(data.write_trl(tmp_path / "cut", rows)), "split": "train"}]
    with pytest.raises(OSError, match="(?i)truncated"):
        command(**DPO, datasets=sets)


def test_it_leaves_repeated_pairs_in(command: Any, pairs: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        command("preprocess", **DPO, datasets=pairs, dataset_exact_deduplication=True)
    assert "Skipping exact deduplication for multimodal" in caplog.text
