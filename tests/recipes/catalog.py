"""Every recipe in the tree, and what a test puts in place of its model, data and size."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support import backbones, data
from tests.support.backbones.pixtral import IMAGE

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
LLAVA = "recipes/{}/llava-1.5-7b.yaml"
HOSTS = ("llamafactory", "axolotl")

# Model of a recipe -> the tiny model of the same architecture, processor and template family.
TINY = {
    "llava-hf/llava-1.5-7b-hf": "llava",
    "llava-hf/llava-1.5-13b-hf": "llava",
    "Salesforce/instructblip-vicuna-13b": "instructblip",
    "llava-hf/llava-v1.6-vicuna-7b-hf": "llava_next",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "llava_onevision",
    "Qwen/Qwen2.5-VL-3B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl",
    "Qwen/Qwen3-VL-30B-A3B-Instruct": "qwen3_vl_moe",
    "Qwen/Qwen3.5-9B": "qwen3_5",
    "OpenGVLab/InternVL3-8B-hf": "internvl",
    "OpenGVLab/InternVL3_5-8B-HF": "internvl",
    "zai-org/GLM-4.1V-9B-Thinking": "glm4v",
    "google/gemma-3-4b-it": "gemma3",
    "google/gemma-3-12b-it": "gemma3",
    "google/gemma-4-E4B-it": "gemma4_small",
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": "smolvlm",
    "mistral-community/pixtral-12b": "pixtral",
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": "mistral3",
    "openbmb/MiniCPM-V-4.6": "minicpm_v_4_6",
}
# Model -> why LLaMA-Factory has no recipe of it.
AXOLOTL_ALONE = {
    "openbmb/MiniCPM-V-4.6": "LLaMA-Factory 0.9.5 takes transformers up to 5.6, without MiniCPM-V 4.6",
}

# Where the drawn dataset says it is from, as `aspo-data convert` records it.
SOURCE = {"name": "drawn", "location": "someone/drawn", "revision": "0f" * 20}


@dataclass(frozen=True)
class Recipe:
    """One recipe file: `host` by the keys it has, `model` as it names it."""

    path: Path
    host: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.relative_to(RECIPES).as_posix()

    @property
    def model(self) -> str:
        return self.values["model_name_or_path" if self.host == "llamafactory" else "base_model"]

    @property
    def tiny(self) -> str:
        return TINY[self.model]

    @property
    def missing(self) -> str:
        """Why the transformers that is installed here cannot build the model; empty where it can."""
        return missing(self.model)


def skip_without_class(model: str) -> None:
    """Skip a test whose `model` the transformers of this environment cannot build, seeing that it is told."""
    import pytest

    from aspo_plugin.plan.model import config_of

    if reason := missing(model):
        with pytest.raises(ValueError, match=f"has no class of {model}"):
            config_of(model)
        pytest.skip(reason)


def missing(model: str) -> str:
    """Why the transformers that is installed here cannot build `model`; empty where it can."""
    if model in AXOLOTL_ALONE and TINY[model] not in backbones.today():
        return AXOLOTL_ALONE[model]
    return ""


def all_recipes() -> list[Recipe]:
    """Every YAML file below recipes/ that names a model, found recursively."""
    found = []
    for path in sorted(RECIPES.rglob("*.y*ml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "model_name_or_path" in values:
            found.append(Recipe(path, "llamafactory", values))
        elif "base_model" in values:
            found.append(Recipe(path, "axolotl", values))
    return found


def recipes_of(host: str) -> list[Recipe]:
    return [recipe for recipe in all_recipes() if recipe.host == host]


def write_dataset(folder: Path, count: int = 8, seed: int = 7, **options: Any) -> Path:
    """A folder like one of `aspo-data`, read by both hosts."""
    from dataset_tools.dataset.folder import llamafactory_entry
    from dataset_tools.dataset.record import FORMAT, write_record

    data.write_converted(folder, data.rows(count, seed, **{"sentences": (2, 4), **options}))
    (folder / "dataset_info.json").write_text(json.dumps({"train": llamafactory_entry()}))
    write_record(folder, {"format": FORMAT, "source": SOURCE})
    return folder


def sized_down(recipe: Recipe, workspace: Path, output: Path) -> dict[str, Any]:
    """What replaces the recipe's model, data and size; every other key stays as written.

    `workspace` has `models/` and `dataset/`; the run writes below `output`.
    """
    model, dataset = built(recipe.tiny, workspace / "models"), workspace / "dataset"
    output.mkdir(parents=True, exist_ok=True)
    if recipe.host == "llamafactory":
        return {
            "model_name_or_path": str(model),
            "dataset_dir": str(dataset),
            "cache_dir": str(output / "cache"),
            "output_dir": str(output / "out"),
            "max_steps": 2,
            "logging_steps": 1,
            "per_device_train_batch_size": min(2, recipe.values["per_device_train_batch_size"]),
            "gradient_accumulation_steps": 1,
            "preprocessing_num_workers": 1,
            "dataloader_num_workers": 0,
            "use_cpu": True,  # bf16 is refused without it where there is no GPU
            "lora_rank": 4,
            "lora_alpha": 8,
        }
    bounds = recipe.values.get("processor_kwargs")
    if bounds and list(bounds.get("size", ())) == ["longest_edge"]:  # no larger image fits the tiny tower
        bounds = {"size": {"longest_edge": IMAGE}}
    return {
        **({"processor_kwargs": bounds} if bounds else {}),
        "base_model": str(model),
        "datasets": [{**recipe.values["datasets"][0], "path": str(dataset)}],
        "dataset_prepared_path": str(output / "prepared"),
        "output_dir": str(output / "out"),
        "max_steps": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "micro_batch_size": min(2, recipe.values["micro_batch_size"]),
        "gradient_accumulation_steps": 1,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "lora_r": 4,
        "lora_alpha": 8,
    }


def built(name: str, folder: Path) -> Path:
    """The tiny model called `name` in bfloat16, as the real ones are stored, built once below `folder`."""
    import torch

    path = folder / name
    if not path.exists():
        backbones.build(name, path, dtype=torch.bfloat16)
    return path


def environment() -> dict[str, str]:
    """The environment of a test's process: no network, no telemetry, no GPU."""
    return {
        **os.environ,
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
