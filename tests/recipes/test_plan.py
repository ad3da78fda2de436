"""`aspo-plan`: counts are exact, the peak is near a measured one, recipes fit the GPU they name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.plan.model import config_of
from tests.support import backbones, own_code
from tests.support.hub import StandInHub, apply_environment

from . import catalog, hosts, memory, table
from .catalog import RECIPES, ROOT, Recipe
from .memory import planned

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


def skip_without_class(model: str) -> None:
    if reason := catalog.missing(model):
        with pytest.raises(ValueError, match=f"has no class of {model}"):
            config_of(model)
        pytest.skip(reason)


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


@pytest.mark.parametrize("recipe", catalog.all_recipes(), ids=lambda recipe: recipe.name)
def test_recipes_fit_the_gpu_they_name(recipe: Recipe) -> None:
    skip_without_class(recipe.model)
    size, gpus = memory.gpu_of(recipe)
    assert sum(planned(recipe.path, gpus=gpus).values()) < 0.97 * size * 2**30


def test_the_page_shows_the_table_as_computed() -> None:
    """After a change of a recipe or of a formula: `python -m tests.recipes.memory --write`."""
    written = table.between(memory.PAGE, memory.BEGIN, memory.END).splitlines()
    unknown = [f"`{recipe.path.name}`" for recipe in memory.listed() if recipe.missing]
    assert [row for row in written if not any(file in row for file in unknown)] == memory.table().splitlines()
    one_pair = {"llamafactory": "per_device_train_batch_size=1", "axolotl": "micro_batch_size=1"}
    for recipe in catalog.recipes_of("axolotl"):
        if recipe.model in catalog.AXOLOTL_ALONE:
            continue
        gpus = memory.gpu_of(recipe)[1]
        needs = [
            sum(planned(RECIPES / host / recipe.path.name, one_pair[host], gpus=gpus).values()) / 2**30
            for host in catalog.HOSTS
        ]
        assert needs[0] == pytest.approx(needs[1], abs=4.1 if "onevision" in recipe.name else 0.3)


@pytest.mark.parametrize("recipe", catalog.all_recipes(), ids=lambda recipe: recipe.name)
def test_thirty_two_pairs_a_step(recipe: Recipe) -> None:
    """However they are split; the learning rates are for that."""
    key = {"llamafactory": "per_device_train_batch_size", "axolotl": "micro_batch_size"}[recipe.host]
    pairs = recipe.values[key] * recipe.values["gradient_accumulation_steps"]
    assert pairs == 32 if "paper" not in recipe.path.stem else pairs * 8 == 128
    for file in (RECIPES / "shared" / recipe.host).glob("*-*"):
        text = file.read_text(encoding="utf-8")
        if file.suffix in (".args", ".yaml") and "gradient_accumulation_steps" in text:
            numbers = [
                re.search(rf"{name}(?:=|: \[)(\d+)", text) for name in (key, "gradient_accumulation_steps")
            ]
            assert all(numbers) and int(numbers[0][1]) * int(numbers[1][1]) * 8 == 32, file


def test_shared_files_bring_any_model_onto_eight_gpus() -> None:
    recipe = RECIPES / "llamafactory/pixtral-12b.yaml"
    for file in sorted((RECIPES / "shared/llamafactory").glob("*-*.args")):
        shared = planned(recipe, more=file, gpus=8)
        assert sum(shared.values()) < 0.97 * 80 * 2**30, file
        assert shared["gradients"] < planned(recipe, more=file)["gradients"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["lora_rank=128"], "adapters"),
        (["cutoff_len=4096"], "activations"),
        (["per_device_train_batch_size=8"], "one layer"),
        (["finetuning_type=full"], "reference model"),
    ],
)
def test_each_setting_moves_its_part(words: list[str], part: str) -> None:
    recipe = RECIPES / "llamafactory/llava-1.5-7b.yaml"
    assert planned(recipe, *words)[part] > planned(recipe).get(part, 0)
    assert planned(recipe, "quantization_bit=4")["weights"] < 0.4 * planned(recipe)["weights"]
    cached = planned(recipe, "finetuning_type=full", "aspo_reference_cache=somewhere")
    assert "reference model" not in cached


def command(*words: str, hub: StandInHub | None = None, answer: str = "") -> subprocess.CompletedProcess[str]:
    script = "from aspo_plugin.plan import main; main()"
    return subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env=apply_environment(hub, catalog.environment()) if hub else catalog.environment(),
        input=answer,
        capture_output=True,
        text=True,
    )


def test_command() -> None:
    done = command("recipes/llamafactory/llava-1.5-7b.yaml", "lora_rank=8", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["total"] == sum(document["bytes"].values())
    assert "counting the layers of llava-hf/llava-1.5-7b-hf" in done.stderr.splitlines()[0]
    unknown = command("recipes/llamafactory/llava-1.5-7b.yaml", "model_name_or_path=me/mine")
    assert unknown.returncode == 2 and "--config" in unknown.stderr and "Traceback" not in unknown.stderr
    assert command("no/such/file.yaml").returncode == 2
    wrong = command("recipes/llamafactory/llava-1.5-7b.yaml", "lora_rank=eight")
    assert wrong.returncode == 2
    assert wrong.stderr == "aspo-plan: lora_rank is 'eight': set a whole number above 0.\n"


LLAVA = "recipes/{}/llava-1.5-7b.yaml"
SHARED = "recipes/shared/{}/full-zero3.{}"


@pytest.mark.parametrize(
    ("host", "wrong", "right"),
    [
        ("llamafactory", "per_device_train_batchsize", "per_device_train_batch_size"),
        ("llamafactory", "aspo_alfa", "aspo_alpha"),
        ("axolotl", "micro_batchsize", "micro_batch_size"),
    ],
)
def test_a_key_that_the_host_does_not_have_is_met_before_anything_is_counted(
    host: str, wrong: str, right: str, tmp_path: Path
) -> None:
    from aspo_plugin.plan.recipe import read_run

    told: list[str] = []
    copy = tmp_path / "mine.yaml"
    copy.write_text((ROOT / LLAVA.format(host)).read_text() + f"\n{wrong}: 3\n")
    if host == hosts.installed_host():
        with pytest.raises(ValueError, match=rf"has no key {wrong}\. Did you mean {right}"):
            read_run(ROOT / LLAVA.format(host), [f"{wrong}=3"], None, 1)
        read_run(copy, [f"{right}=1", "output_dir=here"], None, 1, told.append)
        assert (
            len(told) == 1 and f"has no key {wrong}, which the recipe sets. Did you mean {right}" in told[0]
        )
    else:
        read_run(ROOT / LLAVA.format(host), [f"{wrong}=3", f"{right}=1"], None, 1, told.append)
        assert len(told) == 1 and wrong in told[0] and right in told[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            [LLAVA.format("llamafactory"), "--with", SHARED.format("axolotl", "yaml")],
            "does not end with .args",
        ),
        (
            [LLAVA.format("axolotl"), "--with", SHARED.format("llamafactory", "args")],
            "does not end with .yaml",
        ),
        ([LLAVA.format("axolotl").replace("1.5", "1.6")], "Did you mean recipes/axolotl/llava-1.5-7b.yaml"),
        (["recipe/axolotl/llava-1.5-7b.yaml"], "does not exist. Did you mean recipes?"),
        (
            ["llamafactory/llava-1.5-7b"],
            "`aspo recipes copy llamafactory/llava-1.5-7b` puts that recipe here",
        ),
        (["recipes/llamafactory"], "is a folder"),
        ([LLAVA.format("axolotl"), "aspo={alpha: 1, normalisation: none}"], "Did you mean normalization?"),
    ],
)
def test_what_is_given_wrongly_is_one_line(words: list[str], told: str) -> None:
    done = command(*words)
    assert done.returncode == 2 and told in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_the_next_command_trains_what_was_counted() -> None:
    from aspo_plugin.plan.cli import training

    words = ["lora_rank=8", "template=my template"]
    assert training("llamafactory", Path("r.yaml"), words, Path("f.args"), 8) == (
        "FORCE_TORCHRUN=1 NPROC_PER_NODE=8 llamafactory-cli train r.yaml $(cat f.args) lora_rank=8 "
        "'template=my template'"
    )
    words = ["lora_r=8", "gradient_checkpointing=true", "aspo={alpha: 1}"]
    assert training("axolotl", Path("r.yaml"), words, Path("f.yaml"), 8) == (
        "put gradient_checkpointing: true; aspo: {alpha: 1} into r.yaml, then "
        "axolotl train r.yaml --lora-r=8 --sweep f.yaml --launcher torchrun -- --nproc_per_node 8"
    )


@pytest.mark.skipif(hosts.installed_host() != "axolotl", reason="needs Axolotl")
def test_axolotl_takes_the_options_of_the_next_command() -> None:
    from axolotl.cli import main

    from aspo_plugin.plan.cli import training

    recipe = str(ROOT / LLAVA.format("axolotl"))
    given = training("axolotl", Path(recipe), ["lora_r=8", "sequence_len=99"], None, 1).split()
    context = main.cli.commands["train"].make_context("train", given[2:])
    assert (context.params["lora_r"], context.params["sequence_len"]) == ("8", "99") and not context.args


def test_a_config_comes_from_the_hub_where_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = "recipes/llamafactory/llava-1.5-7b.yaml"
    config_of("llava-hf/llava-1.5-7b-hf").save_pretrained(tmp_path / "model")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with StandInHub() as hub:
        hub.publish("me/mine", tmp_path / "model", kind="model")
        mine = command(recipe, "model_name_or_path=me/mine", "--json", hub=hub)
        assert mine.returncode == 0, mine.stderr
        assert "waiting for the config.json of me/mine from the Hub" in mine.stderr
        bytes_ = json.loads(mine.stdout)["bytes"]
        assert bytes_ == json.loads(command(recipe, "--json").stdout)["bytes"]
        missing = command(recipe, "model_name_or_path=me/other", hub=hub)
        assert missing.returncode == 2 and missing.stderr.splitlines()[-1].startswith("aspo-plan: the shape")


def test_no_code_of_a_model_is_run_or_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, ran = "recipes/llamafactory/llava-1.5-7b.yaml", tmp_path / "ran"
    own = own_code.write(tmp_path / "own", ran)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with StandInHub() as hub:
        hub.publish("me/own", own, kind="model")
        stored = command(recipe, "model_name_or_path=me/own", hub=hub, answer="y\n")
    here = command(recipe, f"model_name_or_path={own}", answer="y\n")
    # A class of transformers for the config, but none of a model that writes: the code would be the model's.
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    half = command(recipe, f"model_name_or_path={own}", answer="y\n")
    for done in (stored, here, half):
        last = done.stderr.splitlines()[-1]
        assert done.returncode == 2 and "needs code from its own repository, which is never run" in last
        assert "trust_remote_code" not in done.stderr + done.stdout and "[y/N]" not in done.stdout
    assert not ran.exists()


def test_deepspeed_is_counted_by_its_stage_wherever_it_is_written(tmp_path: Path) -> None:
    from aspo_plugin.plan.recipe import read_run

    recipe, copy = ROOT / LLAVA.format("axolotl"), tmp_path / "mine.yaml"
    parts = {}
    for stage in range(4):
        copy.write_text(
            recipe.read_text().replace("adapter: lora", "")
            + f"\ndeepspeed: {{zero_optimization: {{stage: {stage}}}}}\n"
        )
        parts[stage] = planned(copy, gpus=8)
    stored = planned(recipe, "adapter=null", f"deepspeed={RECIPES / 'shared/zero3.json'}", gpus=8)
    assert parts[3] == stored
    # 0 shares nothing, 1 the optimizer, 2 gradients, 3 weights.
    for name, first in (("optimizer", 1), ("gradients", 2), ("weights", 3), ("reference model", 3)):
        whole = parts[0][name]
        assert [parts[stage][name] for stage in range(4)] == [
            whole / 8 if stage >= first else whole for stage in range(4)
        ]
    for wrong in ("{zero_optimization: {stage: auto}}", "[3]"):
        with pytest.raises(ValueError, match="deepspeed is"):
            read_run(recipe, [f"deepspeed={wrong}"], None, 1)


def test_what_a_recipe_leaves_out_is_the_hosts_default(tmp_path: Path) -> None:
    from aspo_plugin.plan.recipe import read_run

    assert read_run(ROOT / LLAVA.format("axolotl"), ["sequence_len=null"], None, 1).length == 512
    if hosts.installed_host() == "axolotl":
        from axolotl.utils.schemas.config import AxolotlInputConfig

        assert AxolotlInputConfig.model_fields["sequence_len"].default == 512
    if hosts.installed_host() == "llamafactory":
        from llamafactory.hparams import DataArguments

        assert (
            read_run(ROOT / LLAVA.format("llamafactory"), ["cutoff_len=null"], None, 1).length
            == DataArguments().cutoff_len
        )


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


def test_fsdp2_keeps_weights_as_the_hosts_accelerate_casts_them() -> None:
    """LLaMA-Factory's casts the whole model to float32, Axolotl's what is trained."""
    for file, method in (("full-fsdp2", "full"), ("high-rank-fsdp2", "lora")):
        ours, other = (
            planned(ROOT / LLAVA.format(host), more=RECIPES / f"shared/{host}/{file}.{ending}", gpus=8)
            for host, ending in (("llamafactory", "args"), ("axolotl", "yaml"))
        )
        frozen = planned(ROOT / LLAVA.format("llamafactory"))["weights"] / 2
        assert ours["weights"] == pytest.approx(4 * frozen / 8)
        assert other["weights"] == pytest.approx((4 if method == "full" else 2) * frozen / 8)
        if method == "full":
            assert ours["reference model"] == 2 * other["reference model"] == 4 * frozen / 8


@pytest.mark.skipif(hosts.installed_host() is None, reason="needs a host")
def test_accelerate_casts_as_is_counted() -> None:
    import inspect

    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    whole = "model = model.to(torch.float32)" in inspect.getsource(fsdp2_prepare_model)
    assert whole == (hosts.installed_host() == "llamafactory")


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


@pytest.mark.parametrize(
    ("host", "word", "told"),
    [
        ("llamafactory", "pure_bf16=true", "pure_bf16 is not counted: the run needs less"),
        ("llamafactory", "optim=adafactor", "optim is not counted"),
        ("llamafactory", "use_dora=true", "use_dora is not counted: the run needs more"),
        ("llamafactory", "bf16=false", "bf16: false is not counted: the run needs more"),
        ("axolotl", "load_in_8bit=true", "load_in_8bit is not counted"),
        ("axolotl", "optimizer=adamw_8bit", "optimizer is not counted"),
        ("axolotl", "gradient_checkpointing=offload", "gradient_checkpointing is counted as true"),
        (
            "axolotl",
            "deepspeed={zero_optimization: {stage: 3, offload_param: {device: cpu}}}",
            "offload_param is not counted",
        ),
        ("axolotl", "fsdp_config={offload_params: true}", "offload_params is not counted"),
    ],
)
def test_keys_that_are_not_counted_are_told(host: str, word: str, told: str) -> None:
    from aspo_plugin.plan.recipe import read_run

    heard: list[str] = []
    read_run(ROOT / LLAVA.format(host), [], None, 1, heard.append)
    assert not heard
    read_run(ROOT / LLAVA.format(host), [word], None, 1, heard.append)
    # A host that is not installed cannot judge keys, which is told first.
    assert [line for line in heard if line.startswith("note")] == heard[-1:]
    assert heard[-1].startswith(f"note: {told}")


def test_the_keys_that_are_told_are_the_hosts() -> None:
    from aspo_plugin.plan.keys import known_keys
    from aspo_plugin.plan.uncounted import KEYS

    host = hosts.installed_host()
    assert set(KEYS[host or ""]) <= (known_keys(host or "") or set())


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
