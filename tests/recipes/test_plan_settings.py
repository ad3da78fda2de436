"""`aspo-plan`: each setting moves its part as the host means it, and what is not counted is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import hosts
from .catalog import LLAVA, RECIPES, ROOT
from .memory import planned

pytestmark = pytest.mark.skipif(hosts.installed_host() is None, reason="aspo-plan counts with transformers")


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
