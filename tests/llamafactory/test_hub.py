"""`push_to_hub` with the real client, against a stand-in Hub: what a visitor of the model page reads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hub import StandInHub, apply_environment

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]


def test_push_to_hub(recipe: dict[str, Any], tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    path = tmp_path / "recipe.yaml"
    recipe = {**recipe, "push_to_hub": True, "hub_model_id": "someone/llava-aspo", "aspo_alpha": 0.7}
    path.write_text(yaml.safe_dump(recipe))
    with StandInHub() as hub:
        scripts = Path(sys.executable).parent
        environment = {
            **apply_environment(hub, dict(os.environ)),
            "HF_HOME": str(tmp_path / "home"),
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        }
        command = [str(scripts / "llamafactory-cli"), "train", str(path)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=420)
        assert run.returncode == 0, run.stderr[-3000:]
        files = hub.repo("someone/llava-aspo", "model").files()
    assert {"README.md", "adapter_model.safetensors"} <= files.keys()
    # What names folders of this machine stays there.
    assert (tmp_path / "out/aspo_args.json").is_file() and "aspo_args.json" not in files
    assert files["adapter_model.safetensors"] == (tmp_path / "out/adapter_model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert {"aspo", "llama-factory", "lora"} <= set(card.data.tags) and "dpo" not in card.data.tags
    assert "many" in card.text.split("## ")[0]  # the dataset, in the opening sentence
    for shown in ("arxiv.org/abs/2505.19100", "| `aspo_alpha` | 0.7 |", "| `aspo_normalization` | weight |"):
        assert shown in card.text
    for shown in ("| `pref_beta` | 0.1 |", "learning_rate: 0.001", "train_batch_size: 4"):
        assert shown in card.text
