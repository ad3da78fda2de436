"""What a reference cache is tied to: the weights of a model and the settings of its processor."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from aspo_plugin.reference_cache import fingerprint
from aspo_plugin.reference_cache.fingerprint import media_settings, settings_identity, weights_identity
from tests.core.test_shared_prefix import language_model


def test_weights_identity(tmp_path):
    model = language_model("Llama")
    model.save_pretrained(tmp_path / "a")
    model.save_pretrained(tmp_path / "b")
    first = weights_identity(tmp_path / "a")
    assert first == weights_identity(str(tmp_path / "b"))
    model.lm_head.weight.data[3, 3] += 1
    model.save_pretrained(tmp_path / "b")
    assert weights_identity(tmp_path / "b") != first
    assert weights_identity(None) == "none"
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no weights found in .*empty, so a reference cache cannot"):
        weights_identity(tmp_path / "empty")


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_the_same_weights_under_another_configuration_are_another_model(tmp_path, name):
    """The scaling of positions, or of an adapter, is in no weight."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = {weights_identity(tmp_path)}
    for value in (1, 2):
        (tmp_path / name).write_text(json.dumps({"scaling": value}))
        found.add(weights_identity(tmp_path))
    assert len(found) == 3


def test_a_model_of_the_hub_is_what_its_revision_holds(tmp_path):
    """As the Hub's cache keeps it; a name without a revision is its main branch."""
    cache, local = tmp_path / "cache", tmp_path / "local"
    repository = cache / "models--some--model"
    commits = {"main": "1" * 40, "old": "2" * 40}
    for branch, commit in commits.items():
        folder = repository / "snapshots" / commit
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(branch.encode())
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / branch).write_text(commit)
    found = {branch: weights_identity("some/model", branch, str(cache)) for branch in commits}
    assert found["main"] != found["old"]
    assert weights_identity("some/model", None, str(cache)) == found["main"]
    shutil.copytree(repository / "snapshots" / commits["old"], local)
    assert weights_identity(local) == found["old"]


@pytest.mark.parametrize(
    "place", [0, 99, 9_900, 9_999, *(round(9_900 * block / 63) for block in (1, 31, 62))]
)
def test_large_files_are_sampled_all_over(tmp_path, monkeypatch, place):
    monkeypatch.setattr(fingerprint, "WHOLE_BELOW", 1000)
    monkeypatch.setattr(fingerprint, "BLOCK", 100)
    file = tmp_path / "model.safetensors"
    data = np.random.default_rng(0).bytes(10_000)
    file.write_bytes(data)
    first = weights_identity(tmp_path)
    changed = bytearray(data)
    changed[place] ^= 1
    file.write_bytes(changed)
    assert weights_identity(tmp_path) != first


def test_a_large_file_counts_by_its_size_too(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "WHOLE_BELOW", 1000)
    monkeypatch.setattr(fingerprint, "BLOCK", 100)
    found = set()
    for size in (10_000, 10_001):
        (tmp_path / "model.safetensors").write_bytes(bytes(size))
        found.add(weights_identity(tmp_path))
    assert len(found) == 2


class _Settings:
    def __init__(self, **values):
        self.values = values

    def to_dict(self):
        return self.values


def test_settings_identity():
    assert settings_identity({"a": 1, "b": [2]}) == settings_identity({"b": [2], "a": 1})
    assert settings_identity({"a": 1}) != settings_identity({"a": 2})
    # Objects with settings count by those, whatever the object; what is no JSON counts by its text.
    assert (
        settings_identity(_Settings(a=1)) == settings_identity({"a": 1}) != settings_identity(_Settings(a=2))
    )
    assert settings_identity({"a": range(2)}) != settings_identity({"a": range(3)})


def test_all_parts_of_a_processor_count():
    class Processor:
        image_processor, feature_extractor = _Settings(size=3), _Settings(rate=5)

    assert media_settings(Processor()) == [{"size": 3}, None, {"rate": 5}, None]
