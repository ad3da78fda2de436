"""`aspo schema llamafactory`: every recipe passes, what the run would refuse does not."""

from __future__ import annotations

import pytest

from aspo_plugin.config import settings_from
from tests.support.json_schema import RIGHT, WRONG, recipes, schema_of


def test_the_schema_says_what_the_run_says() -> None:
    schema = schema_of("llamafactory")
    known = schema.schema["properties"]
    assert {"model_name_or_path", "cutoff_len", "learning_rate", "pref_beta", "temperature"} <= set(known)
    assert known["stage"]["enum"][-1] == "aspo" and "dpo" in known["stage"]["enum"]
    assert "similarity" in known["aspo_alpha"]["description"]
    for recipe in recipes("llamafactory"):
        assert set(recipe) <= set(known)
        assert [error.message for error in schema.iter_errors(recipe)] == []
    for settings in RIGHT:
        settings_from(settings)
        assert schema.is_valid({"stage": "aspo", **{f"aspo_{key}": value for key, value in settings.items()}})
    for settings in WRONG:
        with pytest.raises(ValueError):
            settings_from(settings)
        keys = {f"aspo_{key}": value for key, value in settings.items()}
        assert not schema.is_valid({"stage": "aspo", **keys}), settings
    assert not schema.is_valid({"stage": "asp0"}) and not schema.is_valid({"stage": "dpo", "aspo_alpha": 0.5})
    assert not schema.is_valid({"stage": "aspo", "cutoff_len": "long"})
