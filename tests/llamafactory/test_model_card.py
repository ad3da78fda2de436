"""The model card tells every setting that decides what was learned."""

from __future__ import annotations

from types import SimpleNamespace

from aspo_plugin.config import AspoSettings
from aspo_plugin.llamafactory.model_card import settings_rows


def test_an_option_beyond_the_paper_is_told() -> None:
    arguments = SimpleNamespace(pref_beta=0.1, pref_ftx=0.0, ref_model=None)
    settings = AspoSettings(weighting="centred", weight_scale=1.0, weight_rejected=True)
    rows = settings_rows(arguments, settings)
    assert (rows["aspo_weighting"], rows["aspo_weight_scale"], rows["aspo_weight_rejected"]) == (
        "centred",
        1.0,
        True,
    )
    assert "aspo_log_samples" not in rows and "aspo_reference_cache" not in rows
