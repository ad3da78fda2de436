"""A wrong setting is met with one message that names it as the user wrote it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from aspo_plugin.config import AspoSettings, settings_from


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"alpha": 1.5}, ["aspo_alpha is 1.5", "from 0 to 1"]),
        ({"alpha": float("nan")}, ["aspo_alpha"]),
        ({"alpha": "high"}, ["aspo_alpha is 'high'"]),
        ({"alpha": True}, ["aspo_alpha is True"]),
        ({"normalization": "length"}, ["aspo_normalization is 'length'", "weight, reward, none"]),
        ({"shared_prefix": "maybe"}, ["aspo_shared_prefix", "auto, true, false"]),
        ({"similarity_model": ""}, ["aspo_similarity_model"]),
        ({"weighting": "centered"}, ["aspo_weighting is 'centered'", "paper, centred, centred_bounded"]),
        ({"weighting": "centred", "weight_scale": 3}, ["aspo_weight_scale is 3", "choose 1 or 2"]),
        ({"weight_scale": 2}, ["aspo_weight_scale is 2.0", "aspo_weighting paper does not read"]),
        ({"weighting": "centred", "normalization": "none"}, ["aspo_normalization is 'none'", "centred"]),
        ({"weighting": "given"}, ["aspo_alpha is 0.5", "aspo_weighting given", "set aspo_alpha to 1"]),
        ({"weighting": "given", "alpha": 1, "weight_scale": 2}, ["aspo_weighting given does not read"]),
        ({"weighting": "given", "alpha": 1, "normalization": "reward"}, ["choose weight", "or none"]),
        (
            {"weighting": "given", "alpha": 1, "similarity_model": "openai/clip"},
            ["aspo_similarity_model is openai/clip", "remove aspo_similarity_model"],
        ),
        ({"weight_rejected": "yes"}, ["aspo_weight_rejected is 'yes'", "true or false"]),
        ({"weight_rejected": True, "alpha": 0}, ["aspo_weight_rejected", "aspo_alpha is 0"]),
        ({"log_samples": -1}, ["aspo_log_samples is -1", "whole number"]),
        ({"log_samples": 2.5}, ["aspo_log_samples is 2.5"]),
        ({"log_samples": True}, ["aspo_log_samples is True"]),
        ({"alhpa": 0.5}, ["unknown aspo_alhpa", "aspo_alpha"]),
    ],
)
def test_bad_values(values, words):
    with pytest.raises(ValueError) as error:
        settings_from(values)
    for word in words:
        assert word in str(error.value)


def test_every_bound_is_enforced():
    """What the JSON Schema says of a number holds for the run as well."""
    bounded = {
        item.name: item.metadata["bounds"] for item in fields(AspoSettings) if "bounds" in item.metadata
    }
    assert {"alpha", "log_samples"} <= set(bounded)
    for name, (low, high) in bounded.items():
        for value in [low - 1] if high is None else [low - 1, high + 1]:
            with pytest.raises(ValueError, match=f"aspo_{name} is"):
                settings_from({name: value})


def test_given_weights():
    for normalization in ("weight", "none"):
        settings = settings_from({"weighting": "given", "alpha": 1, "normalization": normalization})
        assert settings.loss_options()["normalization"] == normalization


def test_yaml_spellings():
    assert settings_from({"shared_prefix": True}).shared_prefix == "true"
    assert settings_from({"shared_prefix": False}).shared_prefix == "false"
    assert settings_from({"alpha": 1}).alpha == 1.0
    assert settings_from({}) == AspoSettings()
    with pytest.raises(ValueError, match="aspo: alpha is 2"):
        settings_from({"alpha": 2}, "aspo: {}")
