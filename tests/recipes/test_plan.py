"""`aspo-plan`: counts are exact, the peak is near a measured one, recipes fit the GPU they name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones

from . import catalog, hosts
from .catalog import RECIPES, ROOT, Recipe

pytestmark = pytest.mark.skipif(hosts.installed_host() is None, reason="aspo-plan counts with transformers")

# Billions of parameters, as the models' pages on the Hub give them.
PUBLISHED = {
    "llava-hf/llava-1.5-7b-hf": 7.06,
    "llava-hf/llava-1.5-13b-hf": 13.35,
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.03,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77,
    "OpenGVLab/InternVL3-8B-hf": 7.94,
    "google/gemma-3-4b-it": 4.30,
    "google/gemma-3-12b-it": 12.19,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2.25,
}


def planned(recipe: Path, *overrides: str, more: Path | None = None, gpus: int = 1) -> dict[str, float]:
    from aspo_plugin.plan.memory import estimate
    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    run = read_run(recipe, list(overrides), more, gpus)
    return {part.name: part.bytes for part in estimate(run, shape_of(run))}


@pytest.mark.parametrize("name", sorted(catalog.TINY))
def test_known_shapes_have_the_published_size(name: str) -> None:
    from aspo_plugin.plan.model import config_of, empty_model

    count = sum(value.numel() for value in empty_model(config_of(name)).parameters()) / 1e9
    if name in PUBLISHED:
        assert count == pytest.approx(PUBLISHED[name], abs=0.01)
    assert 2 < count < 15


@pytest.mark.parametrize("architecture", ["llava", "qwen2_5_vl", "gemma3", "smolvlm", "instructblip"])
def test_counts_are_those_of_the_loaded_and_adapted_model(architecture: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForImageTextToText

    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    folder = backbones.build(architecture, tmp_path / architecture)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    recipe = next(recipe for recipe in catalog.recipes_of("axolotl") if recipe.tiny == architecture)
    run = read_run(recipe.path, [f"base_model={folder}", "lora_r=4"], None, 1)
    shape = shape_of(run)
    assert shape.parameters == sum(value.numel() for value in model.parameters())
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules=recipe.values["lora_target_modules"])
    )
    assert shape.trainable == sum(value.numel() for value in adapted.parameters() if value.requires_grad) > 0
    # LLaMA-Factory's `lora_target: all` means the same layers.
    other = read_run(
        RECIPES / "llamafactory" / recipe.path.name, [f"model_name_or_path={folder}", "lora_rank=4"], None, 1
    )
    assert shape_of(other).trainable == shape.trainable


def measured_peak(folder: Path, pairs: int, length: int) -> dict[str, float]:
    """Bytes of a full training step in float32 on a CPU: all storages alive at the worst moment.

    Measured by following every operation's results, not by the formulas' quantities.
    """
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from transformers import AutoModelForImageTextToText

    alive: dict[int, int] = {}
    peak = 0

    class Follow(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal peak
            result = function(*args, **(kwargs or {}))
            for tensor in tree_leaves(result):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    key = storage._cdata
                    if key not in alive:
                        alive[key] = storage.nbytes()
                        weakref.finalize(storage, alive.pop, key, None)
            peak = max(peak, sum(alive.values()))
            return result

    from aspo_plugin.core.logprobs import ResponseLogProbs

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids = torch.randint(10, 500, (2 * pairs, length))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, length // 2 :] = True
    with Follow():
        logps = ResponseLogProbs(shared_prefix="false")(
            model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, mask
        )
        logps.sum().backward()
    return {"peak": float(peak)}


def test_activations_are_near_a_measured_run(tmp_path: Path) -> None:
    """Peak of forward and backward without weights, on a model whose activations outweigh the rest."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    from aspo_plugin.plan.memory import _activations, _layer, _logits
    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    folder = backbones.build("llava", tmp_path / "llava")
    config = LlavaConfig.from_pretrained(folder)
    config.text_config.update(
        {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "head_dim": 64}
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    pairs, length = 2, 1024
    words = [f"model_name_or_path={folder}", "finetuning_type=full", f"cutoff_len={length}"]
    run = read_run(
        RECIPES / "llamafactory/llava-1.5-7b.yaml", [*words, f"per_device_train_batch_size={pairs}"], None, 1
    )
    shape = shape_of(run)
    tokens = 2 * pairs * length
    parts = [_activations(run, shape, tokens), _layer(run, shape, tokens), _logits(shape, tokens // 2)]
    # The formulas are for bfloat16: twice that in float32, but for logits; and the gradients of the weights.
    working = max(2 * parts[1].bytes, parts[2].bytes)
    expected = 2 * parts[0].bytes + working + 4 * shape.trainable
    measured = measured_peak(folder, pairs, length)["peak"]
    assert measured / 1.5 < expected < measured * 1.5, (expected / 2**20, measured / 2**20)


@pytest.mark.parametrize("recipe", catalog.all_recipes(), ids=lambda recipe: recipe.name)
def test_recipes_fit_the_gpu_they_name(recipe: Recipe) -> None:
    head = recipe.path.read_text().split("\n\n")[0]
    found = re.search(r"LoRA on one (\d+) GB GPU", head)
    size, gpus = (int(found[1]), 1) if found else (80, 8)
    assert sum(planned(recipe.path, gpus=gpus).values()) < 0.97 * size * 2**30


def test_shared_files_bring_any_model_onto_eight_gpus() -> None:
    recipe = RECIPES / "llamafactory/pixtral-12b.yaml"
    for file in sorted((RECIPES / "shared/llamafactory").glob("*.args")):
        shared = planned(recipe, more=file, gpus=8)
        assert sum(shared.values()) < 0.97 * 80 * 2**30, file
        assert shared["gradients"] < planned(recipe, more=file)["gradients"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["lora_rank=128"], "adapters"),
        (["cutoff_len=4096"], "activations"),
        (["per_device_train_batch_size=2"], "one layer"),
        (["finetuning_type=full"], "reference model"),
    ],
)
def test_each_setting_moves_its_part(words: list[str], part: str) -> None:
    recipe = RECIPES / "llamafactory/llava-1.5-7b.yaml"
    assert planned(recipe, *words)[part] > planned(recipe).get(part, 0)
    assert planned(recipe, "quantization_bit=4")["weights"] < 0.4 * planned(recipe)["weights"]
    cached = planned(recipe, "finetuning_type=full", "aspo_reference_cache=somewhere")
    assert "reference model" not in cached


def command(*words: str) -> subprocess.CompletedProcess[str]:
    script = "from aspo_plugin.plan import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env=catalog.environment(),
        capture_output=True,
        text=True,
    )


def test_command() -> None:
    done = command("recipes/llamafactory/llava-1.5-7b.yaml", "lora_rank=8", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["total"] == sum(document["bytes"].values())
    unknown = command("recipes/llamafactory/llava-1.5-7b.yaml", "model_name_or_path=me/mine")
    assert unknown.returncode == 2 and "--config" in unknown.stderr and "Traceback" not in unknown.stderr
    assert command("no/such/file.yaml").returncode == 2
