"""`aspo-plan`: activations and states are near those of measured runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import backbones

from . import catalog, hosts
from .catalog import RECIPES
from .memory import planned

pytestmark = pytest.mark.skipif(hosts.installed_host() is None, reason="aspo-plan counts with transformers")


def wider_llava(folder: Path) -> Path:
    """A LLaVA whose activations and weights outweigh what the formulas leave out."""
    import torch
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    backbones.build("llava", folder)
    config = LlavaConfig.from_pretrained(folder)
    config.text_config.update(
        {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "head_dim": 64}
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def random_batch(pairs: int, length: int) -> tuple[dict[str, Any], Any]:
    import torch

    ids = torch.randint(10, 500, (2 * pairs, length))
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, length // 2 :] = True
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, mask


def measured_peak(model: Any, pairs: int, length: int) -> float:
    """Bytes of a training step without the weights on a CPU: all storages alive at the worst moment.

    Measured by following every operation's results, not by the formulas' quantities.
    """
    import weakref

    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from aspo_plugin.logprobs.response import ResponseLogProbs

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

    inputs, mask = random_batch(pairs, length)
    with Follow():
        ResponseLogProbs(shared_prefix="false")(model, inputs, mask).sum().backward()
    return float(peak)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_activations_are_near_a_measured_run(method: str, tmp_path: Path) -> None:
    """Peak of forward and backward without weights, on a model whose activations outweigh the rest."""
    import peft
    import torch
    from transformers import AutoModelForImageTextToText

    from aspo_plugin.plan.memory import _activations, _layer, _logits
    from aspo_plugin.plan.model import shape_of
    from aspo_plugin.plan.recipe import read_run

    folder = wider_llava(tmp_path / "llava")
    pairs, length = 2, 1024
    words = [f"model_name_or_path={folder}", f"finetuning_type={method}", f"cutoff_len={length}"]
    recipe = RECIPES / "llamafactory/llava-1.5-7b.yaml"
    run = read_run(recipe, [*words, f"per_device_train_batch_size={pairs}"], None, 1)
    shape = shape_of(run)
    tokens = 2 * pairs * length
    parts = [_activations(run, shape, tokens), _layer(run, shape, tokens), _logits(shape, tokens // 2)]
    # The formulas are for bfloat16: twice that in float32, but for logits; and the gradients of the weights.
    working = max(2 * parts[1].bytes, parts[2].bytes)
    expected = 2 * parts[0].bytes + working + 4 * shape.trainable

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    if method == "lora":
        axolotl = next(r for r in catalog.recipes_of("axolotl") if r.path.stem == recipe.stem)
        targets = axolotl.values["lora_target_modules"]
        model = peft.get_peft_model(model, peft.LoraConfig(r=run.rank, target_modules=targets))
        model.enable_input_require_grads()
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    measured = measured_peak(model, pairs, length)
    assert measured / 1.3 < expected < measured * 1.3, (expected / 2**20, measured / 2**20)


def measured_states(values: dict[str, Any]) -> dict[str, int]:
    """Bytes of what LLaMA-Factory holds between two steps, after one step of its model with AdamW."""
    import torch
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.train.trainer_utils import create_ref_model

    from aspo_plugin.logprobs.response import ResponseLogProbs

    model_args, _, _, method, _ = get_train_args(values)
    model = load_model(load_tokenizer(model_args)["tokenizer"], model_args, method, True)
    reference = create_ref_model(model_args, method)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    inputs, mask = random_batch(1, 64)
    with torch.autocast("cpu", torch.bfloat16):
        ResponseLogProbs(shared_prefix="false")(model, inputs, mask).sum().backward()
    optimizer.step()

    def size(tensors: Any) -> int:
        return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))

    kept = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    full = values["finetuning_type"] == "full"
    for state in [s for p in kept if (s := getattr(p, "quant_state", None))]:
        kept += [state.absmax, state.state2.absmax]  # the constants of the 4-bit blocks
    found = {
        "weights": size(kept) + (size(trained) if full else 0),
        "adapters": 0 if full else size(trained),
        "gradients": size(parameter.grad for parameter in trained),
        "optimizer": size(value for state in optimizer.state.values() for value in state.values()),
        "reference model": size(reference.parameters()) if reference is not None else 0,
    }
    return {name: count for name, count in found.items() if count}


@pytest.mark.skipif(hosts.installed_host() != "llamafactory", reason="needs LLaMA-Factory")
@pytest.mark.parametrize(
    "changes",
    [
        {"finetuning_type": "lora"},
        {"finetuning_type": "full"},
        {"finetuning_type": "lora", "quantization_bit": 4, "double_quantization": True},
    ],
    ids=["lora", "full", "qlora"],
)
def test_states_are_those_of_a_measured_run(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = wider_llava(tmp_path / "llava")
    recipe = next(r for r in catalog.recipes_of("llamafactory") if r.path.stem == "llava-1.5-7b")
    given = {"model_name_or_path": str(folder), **changes}
    sizes = {"use_cpu": True, "output_dir": str(tmp_path / "out"), "dataset_dir": str(tmp_path)}
    expected = planned(recipe.path, *(f"{key}={value}" for key, value in given.items()))

    def child() -> None:
        found = measured_states({**recipe.values, **given, **sizes})
        (tmp_path / "found.json").write_text(json.dumps(found))

    hosts.forked(child, tmp_path / "log")
    found = json.loads((tmp_path / "found.json").read_text())
    others = {"activations", "one layer", "logits", "other"}
    assert found.keys() == expected.keys() - others
    for name, measured in found.items():
        assert measured == pytest.approx(expected[name], rel=0.02), name
    if changes["finetuning_type"] == "full":  # with a cache the host loads no second model
        cached = planned(recipe.path, "finetuning_type=full", "aspo_reference_cache=somewhere")
        assert "reference model" in found and "reference model" not in cached
