"""A recipe that pushes its adapter: what a visitor of the model page finds, in each host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.hub import StandInHub, apply_environment

from . import catalog, hosts

HOST = hosts.installed_host()
NAME = "someone/llava-aspo"
# Host -> what a user sets, and what of the recipe's hyper-parameters the page must show.
PUSH = {
    "llamafactory": {"push_to_hub": True, "hub_model_id": NAME, "aspo_log_samples": 2, "logging_steps": 1},
    "axolotl": {"hub_model_id": NAME, "aspo": {"alpha": 0.5, "log_samples": 2}, "logging_steps": 1},
}
SHOWN = {
    "llamafactory": ["| `pref_beta` | 0.1 |", "| `aspo_alpha` | 0.5 |", "learning_rate: 5e-06"],
    "axolotl": ["| `rl_beta` | 0.1 |", "| `aspo: alpha` | 0.5 |", "| `learning_rate` | 5e-06 |"],
}


@pytest.mark.skipif(HOST is None, reason="no host in this environment")
def test_the_pushed_card_names_method_settings_dataset_and_revision(workspace: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    assert HOST is not None
    recipe = next(recipe for recipe in catalog.recipes_of(HOST) if recipe.path.stem == "llava-1.5-7b")
    changes = catalog.sized_down(recipe, workspace, tmp_path) | {"max_steps": 1} | PUSH[HOST]
    command = hosts.command(recipe, changes, tmp_path)
    with StandInHub() as hub:
        environment = apply_environment(hub, catalog.environment()) | {"HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            command, cwd=catalog.ROOT, env=environment, capture_output=True, text=True, timeout=560
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        files = hub.repo(NAME, "model").files()
    assert files["adapter_model.safetensors"] == (tmp_path / "out/adapter_model.safetensors").read_bytes()
    # What quotes the data or names folders of this machine stays: the repository may be public.
    assert {"aspo_run.json", "aspo_samples.jsonl"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert not [name for name in files if name.startswith("aspo_")], sorted(files)
    card = ModelCard(files["README.md"].decode())
    assert "aspo" in card.data.tags and "dpo" not in card.data.tags
    assert "arxiv.org/abs/2505.19100" in card.text
    for text in (*SHOWN[HOST], catalog.SOURCE["location"], catalog.SOURCE["revision"]):
        assert text in card.text, text
