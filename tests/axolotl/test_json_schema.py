"""`aspo schema axolotl`: every recipe passes, what the run would refuse does not."""

from __future__ import annotations

import pytest

from aspo_plugin.axolotl.arguments import refuse
from tests.support.json_schema import RIGHT, WRONG, recipes, schema_of


def test_the_schema_says_what_the_run_says() -> None:
    schema = schema_of("axolotl")
    assert {"base_model", "datasets", "lora_r", "aspo", "rl"} <= set(schema.schema["properties"])
    config = recipes("axolotl")[0]
    for recipe in recipes("axolotl"):
        assert recipe["rl"] == "aspo"
        assert [error.message for error in schema.iter_errors(recipe)] == []
    for settings in RIGHT:
        refuse({**config, "aspo": settings})
        assert schema.is_valid({**config, "aspo": settings})
    for settings in [*WRONG, {"alfa": 0.5}]:
        with pytest.raises(ValueError):
            refuse({**config, "aspo": settings})
        assert not schema.is_valid({**config, "aspo": settings}), settings
    assert schema.is_valid({**config, "rl": "dpo"}) and not schema.is_valid({**config, "rl": "asp0"})
    for key, value in (("sample_packing", True), ("dpo_loss_type", ["ipo"]), ("beta", 0.1)):
        with pytest.raises(ValueError):
            refuse({**config, key: value})
        assert not schema.is_valid({**config, key: value}), key
    assert schema.is_valid({**config, "sample_packing": False})
