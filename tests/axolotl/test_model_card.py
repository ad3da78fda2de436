"""The model card tells every setting that decides what was learned."""

from __future__ import annotations

from pathlib import Path

from axolotl.utils.dict import DictDefault

from aspo_plugin.axolotl.model_card import describe


def test_an_option_beyond_the_paper_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Model\n", encoding="utf-8")
    values = {"alpha": 0.5, "weighting": "centred", "weight_scale": 1, "weight_rejected": True}
    describe(DictDefault(aspo=values, datasets=[{"path": "you/pairs"}]), tmp_path, 0.1)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    for key, value in values.items():
        assert f"| `aspo: {key}` | {float(value) if key == 'weight_scale' else value} |" in text
    assert "log_samples" not in text
