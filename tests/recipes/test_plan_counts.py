"""`aspo-plan`: parameters and what of them is trained are counted exactly, for any model and method."""

from __future__ import annotations

from pathlib import Path

import pytest

from aspo_plugin.plan.model import config_of
from tests.support import backbones

from . import catalog, hosts
from .catalog import LLAVA, RECIPES, ROOT, skip_without_class

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
    "openbmb/MiniCPM-V-4.6": 1.30,
}


@pytest.mark.parametrize("name", sorted(catalog.TINY))
def test_known_shapes_have_the_published_size(name: str) -> None:
    from aspo_plugin.plan.model import config_of, empty_model

    skip_without_class(name)
    count = sum(value.numel() for value in empty_model(config_of(name)).parameters()) / 1e9
    if name in PUBLISHED:
        assert count == pytest.approx(PUBLISHED[name], abs=0.01)
    assert 1 < count < 32


@pytest.mark.parametrize(
    "architecture",
    [
        "llava",
        "qwen2_5_vl",
        "gemma3",
        "smolvlm",
        "instructblip",
        "qwen3_vl_moe",
        "qwen3_5",
        "glm4v",
        "mistral3",
        "gemma4_small",
    ],
)
def test_counts_are_those_of_the_loaded_and_adapted_model(architecture: str, tmp_path: Path) -> None:
    import peft
    from torch import nn
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
    # LLaMA-Factory's `lora_target: all` means the same layers, and what brings Gemma 4's layer embeddings in.
    embeddings = [
        value
        for name, value in model.named_modules()
        if "language_model" in name and "per_layer" in name and isinstance(value, nn.Linear)
    ]
    more = sum(4 * (value.in_features + value.out_features) for value in embeddings)
    assert bool(more) == (architecture == "gemma4_small")
    other = read_run(
        RECIPES / "llamafactory" / recipe.path.name, [f"model_name_or_path={folder}", "lora_rank=4"], None, 1
    )
    assert shape_of(other).trainable == shape.trainable + more


@pytest.mark.parametrize(
    ("sizes", "width"),
    [
        ({"intermediate_size": 100}, 100),
        ({"intermediate_size": 100, "num_experts_per_tok": 2}, 200),  # Mixtral
        ({"moe_intermediate_size": 30, "num_experts_per_tok": 8, "shared_expert_intermediate_size": 50}, 290),
        ({"moe_intermediate_size": 30, "num_experts_per_tok": 8, "n_shared_experts": 2}, 300),
        ({"intermediate_size": 900, "moe_intermediate_size": 30, "num_experts_per_tok": 8}, 900),
    ],
)
def test_the_experts_of_a_token_count_together(sizes: dict[str, int], width: int) -> None:
    from types import SimpleNamespace

    from aspo_plugin.plan.model import _inner

    assert _inner(SimpleNamespace(**sizes), "me/mine") == width
    with pytest.raises(ValueError, match="me/mine gives no width of an MLP"):
        _inner(SimpleNamespace(num_experts_per_tok=8), "me/mine")


@pytest.mark.parametrize(
    ("host", "words", "names"),
    [
        ("llamafactory", ["freeze_vision_tower=false"], "tower language"),
        ("llamafactory", ["freeze_vision_tower=false", "freeze_language_model=true"], "tower"),
        ("llamafactory", ["freeze_multi_modal_projector=false"], "projector language"),
        ("axolotl", ["lora_target_linear=true"], "tower projector language"),
    ],
)
def test_what_is_adapted_beside_the_language_model_counts(host: str, words: list[str], names: str) -> None:
    from torch import nn

    from aspo_plugin.plan.model import empty_model, shape_of
    from aspo_plugin.plan.recipe import read_run

    run = read_run(ROOT / LLAVA.format(host), words, None, 1)
    model = empty_model(config_of(run.model))
    parts = {"tower": "vision_tower", "projector": "multi_modal_projector", "language": "language_model"}
    expected = sum(
        run.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(parts[part] in name for part in names.split())
    )
    assert shape_of(run).trainable == expected


def test_axolotl_looks_for_names_of_a_list_in_the_tower_too(tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForImageTextToText

    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    folder = backbones.build("llava", tmp_path / "llava")
    words = [f"base_model={folder}", "lora_r=4", "lora_target_modules=[q_proj, v_proj]"]
    run = read_run(ROOT / LLAVA.format("axolotl"), [*words, "lora_modules_to_save=[lm_head]"], None, 1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head"])
    adapted = peft.get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), config)
    assert shape_of(run).trainable == sum(v.numel() for v in adapted.parameters() if v.requires_grad)
    assert any("vision_tower" in name for name, v in adapted.named_parameters() if v.requires_grad)
    with pytest.raises(ValueError, match="no module nowhere"):
        shape_of(read_run(ROOT / LLAVA.format("axolotl"), ["lora_modules_to_save=[nowhere]"], None, 1))


@pytest.mark.skipif(hosts.installed_host() != "llamafactory", reason="needs LLaMA-Factory")
@pytest.mark.parametrize("name", sorted(catalog.TINY))
def test_full_training_counts_what_the_host_leaves_trainable(name: str) -> None:
    """All three parts by the host's own lists, on the names of the real model; GLM-4.1V's leaves some out."""
    from llamafactory.hparams import FinetuningArguments
    from llamafactory.model.model_utils.visual import get_forbidden_modules

    from aspo_plugin.llamafactory.templates import register_composites
    from aspo_plugin.plan.model import empty_model, shape_of
    from aspo_plugin.plan.recipe import read_run

    skip_without_class(name)
    register_composites()
    config = config_of(name)
    model = empty_model(config)
    for freeze in (True, False):
        forbidden = get_forbidden_modules(config, FinetuningArguments(freeze_vision_tower=freeze))
        trained = {
            key: value.numel()
            for key, value in model.named_parameters()
            if not any(part in key for part in forbidden)
        }
        words = [f"model_name_or_path={name}", "finetuning_type=full", f"freeze_vision_tower={freeze}"]
        counted = shape_of(read_run(ROOT / LLAVA.format("llamafactory"), words, None, 1)).trainable
        assert counted == pytest.approx(sum(trained.values()), rel=1e-4)
