"""A checkpoint knows what it was trained for."""

from __future__ import annotations

import dataclasses
import json

import pytest

from aspo_plugin.config import AspoSettings
from aspo_plugin.training.resume import FILE, ChangedSettings, check_resumed, objective, remember

NAME = "aspo_{}"


def test_every_setting_but_speed_is_part_of_the_objective():
    values = objective(AspoSettings(), NAME, beta=0.1)
    names = {NAME.format(item.name) for item in dataclasses.fields(AspoSettings)}
    speed = {"aspo_shared_prefix", "aspo_reference_cache", "aspo_log_samples"}
    assert set(values) == names - speed | {"beta"}


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"alpha": 0.7}, {}, r"aspo_alpha was 0\.5, now 0\.7"),
        ({"normalization": "reward"}, {}, "aspo_normalization was weight, now reward"),
        ({"similarity_model": "clip"}, {}, "aspo_similarity_model was None, now clip"),
        ({}, {"beta": 0.2}, r"beta was 0\.1, now 0\.2"),
        ({}, {"scorer": ["siglip"]}, r"scorer was \['clip'\], now \['siglip'\]"),
    ],
)
def test_another_objective_is_not_resumed(tmp_path, changes, more, message):
    begun = {"beta": 0.1, "scorer": ["clip"]}
    remember(tmp_path, objective(AspoSettings(), NAME, **begun))
    check_resumed(tmp_path, objective(AspoSettings(), NAME, **begun))
    check_resumed(tmp_path, objective(AspoSettings(shared_prefix="false"), NAME, **begun))
    now = objective(AspoSettings(**changes), NAME, **(begun | more))
    with pytest.raises(ChangedSettings, match=message + r".*delete .*aspo_settings\.json"):
        check_resumed(tmp_path, now)
    (tmp_path / FILE).unlink()  # asked for
    check_resumed(tmp_path, now)


def test_a_checkpoint_of_an_older_or_newer_version(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"aspo_alpha": 0.5, "unknown": 3}))
    check_resumed(tmp_path, objective(AspoSettings(), NAME))
    (tmp_path / FILE).write_text("")
    with pytest.raises(ChangedSettings, match="cannot be read: delete it"):
        check_resumed(tmp_path, objective(AspoSettings(), NAME))
