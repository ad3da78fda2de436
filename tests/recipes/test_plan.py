"""`aspo-plan` as a command: its answer, its one line for what is given wrongly, and the next command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aspo_plugin.plan.model import config_of
from tests.support import own_code
from tests.support.hub import StandInHub, apply_environment

from . import catalog, hosts
from .catalog import LLAVA, ROOT

pytestmark = pytest.mark.skipif(hosts.installed_host() is None, reason="aspo-plan counts with transformers")

SHARED = "recipes/shared/{}/full-zero3.{}"


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
