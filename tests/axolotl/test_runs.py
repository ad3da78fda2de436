"""Axolotl's own commands with `rl: aspo` on tiny models."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aspo_plugin.axolotl import contract
from aspo_plugin.axolotl.config import PLUGIN
from tests.support import data, samples
from tests.support.hub import StandInHub

from .conftest import history, write

NUMBERS = ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")


def launch(*arguments: str, **variables: str | None) -> None:
    """Axolotl's command line in a process of its own; a variable that is None is left out."""
    bin_dir = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ['PATH']}",
        "AXOLOTL_IS_PREPROCESS": "0",
    }
    environment |= {name: value for name, value in variables.items() if value is not None}
    without = [name for name, value in variables.items() if value is None]
    for name in (*without, "WORLD_SIZE", "LOCAL_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    subprocess.run([str(bin_dir / "axolotl"), *arguments], env=environment, check=True, timeout=500)


@pytest.mark.host
@pytest.mark.parametrize("launcher", [(), ("--launcher", "torchrun", "--", "--nproc_per_node=2")])
def test_a_refusal_is_the_last_line(
    launcher: tuple[str, ...], config: Any, tmp_path: Path, capfd: Any
) -> None:
    path = write({**config, "aspo": {"alpha": 2}}, tmp_path / "config")
    with pytest.raises(subprocess.CalledProcessError):
        launch("train", path, *launcher)
    lines = capfd.readouterr().err.strip().splitlines()
    assert "aspo: alpha is 2.0, but it mixes similarity (1) with perplexity (0)" in lines[-1], lines[-5:]


def same(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], rel: float, names: Any = NUMBERS) -> None:
    assert len(ours) == len(theirs) > 0
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=rel, abs=rel), (step, name)


@pytest.mark.host
def test_the_default_launcher_and_two_processes(
    config: Any, train: Any, datasets: Path, tmp_path: Path, capfd: Any
) -> None:
    """`axolotl train` as users type it; 1 process with batch 2 equals 2 processes with batch 1, which read
    their set from a Hub by its id. One process tells how it begins, and keeps samples."""
    sentences = sum(len(row["chosen_sentences"]) for row in data.rows(24, 1, sentences=(3, 5)))
    begin = (
        "ASPO: alpha 0.5, normalization weight; similarities of the dataset; 24 pairs with "
        f"{sentences} sentences, 0% of one sentence only; 0 rows refused."
    )

    def begins_once(folder: Path) -> None:
        assert [line for line in capfd.readouterr().err.splitlines() if "ASPO: alpha" in line] == [begin]
        kept = samples.pairs(samples.read(folder))
        assert list(kept) == [(step, pair) for step in (1, 2, 3) for pair in (0, 1)]

    changes = {
        "aspo": {"alpha": 0.5, "log_samples": 2},
        "test_datasets": [{"path": str(datasets / "eval")}],
        "eval_steps": 3,
        "max_steps": 3,
        "save_steps": 3,
        "gradient_accumulation_steps": 2,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    launch("train", write({**config, **changes, "output_dir": str(one)}, tmp_path / "c1"))
    begins_once(one)
    halves = {**config, **changes, "micro_batch_size": 1, "output_dir": str(two)}
    halves |= {
        "datasets": [{"path": "somebody/pairs"}],
        "dataset_prepared_path": str(tmp_path / "prepared-2"),
    }
    with StandInHub() as hub:
        hub.publish("somebody/pairs", datasets / "many")
        environment = {**hub.environment(), "HF_HOME": str(tmp_path / "home")}
        config_file = write(halves, tmp_path / "c2")
        launch("train", config_file, "--launcher", "torchrun", "--", "--nproc_per_node=2", **environment)
    begins_once(two)
    # The adapter starts from the same seed; sums of different order differ in the last places.
    same(history(one), history(two), rel=2e-4)
    state = json.loads((one / "checkpoint-3" / "trainer_state.json").read_text())
    evaluated = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert evaluated and {"eval_aspo/weight_mean", "eval_rewards/margins"} <= set(evaluated[-1])

    assert yaml.safe_load((one / "aspo_config.yaml").read_text())["rl"] == "aspo"
    card = (one / "README.md").read_text()
    assert "trained with ASPO" in card and "2505.19100" in card and "- aspo" in card and "- dpo" not in card
    assert (one / "adapter_model.safetensors").exists() and not (one / "model.safetensors").exists()


def test_preprocess_evaluate_and_merge_use_the_run(command: Any, datasets: Path, monkeypatch: Any) -> None:
    from aspo_plugin.axolotl import prepared

    changes = {"test_datasets": [{"path": str(datasets / "eval")}], "eval_steps": 2}
    command("preprocess", **changes)
    with monkeypatch.context() as patch:  # the rows are ready: nothing is prepared again
        patch.setattr(prepared, "prepared_entry", lambda *args, **kwargs: pytest.fail("prepared twice"))
        out = Path(command("train", **changes))
    state = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    trained = [entry for entry in state["log_history"] if "eval_loss" in entry][-1]

    command("evaluate", **changes)
    summary = dict(line.split(",")[::2] for line in (out / "eval_summary.csv").read_text().splitlines()[1:])
    assert float(summary["loss"]) == pytest.approx(trained["eval_loss"], rel=1e-5)
    assert float(summary["loss"]) != pytest.approx(0.6931, abs=1e-4)  # the adapter was there
    assert float(summary["aspo/weight_mean"]) == pytest.approx(trained["eval_aspo/weight_mean"], rel=1e-5)

    command("merge_lora", **changes)
    assert merged_differs(out)


def merged_differs(out: Path) -> bool:
    """Whether the merged weights are the base's plus the adapter's."""
    import torch
    from transformers import AutoModelForImageTextToText

    base = yaml.safe_load((out / "aspo_config.yaml").read_text())["base_model"]
    models = [
        AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32)
        for path in (base, out / "merged")
    ]
    first, second = (dict(model.named_parameters()) for model in models)
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    return bool(changed) and all(
        "q_proj" in name or "v_proj" in name or "down_proj" in name for name in changed
    )


def test_one_sentence_is_axolotls_own_dpo_on_text(
    train: Any, models: Path, datasets: Path, tmp_path: Path
) -> None:
    common = {
        "base_model": str(models / "text"),
        "datasets": [{"path": str(datasets / "plain.jsonl"), "split": "train"}],
        "adapter": None,
        "lora_target_modules": None,
        # Adam would turn rounding of vanishing gradients into whole steps of its own.
        "optimizer": "sgd",
        "learning_rate": 0.2,
        "max_steps": 6,
        "save_steps": 6,
        "seed": 7,
    }
    dpo = train(**common, rl="dpo", plugins=None, aspo=None, output_dir=str(tmp_path / "dpo"))
    aspo = train(**common, output_dir=str(tmp_path / "aspo"))
    same(aspo, dpo, rel=2e-5)
    assert max(entry["loss"] for entry in dpo) - min(entry["loss"] for entry in dpo) > 1e-3
    assert all(entry["aspo/single_sentence_share"] == 1 for entry in aspo)
    begun = [{"path": str(datasets / "begun.jsonl"), "split": "train"}]  # with an untrained prefix
    same(train(**{**common, "datasets": begun}, output_dir=str(tmp_path / "begun")), dpo, rel=2e-5)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whether Axolotl finds this package's entry point, which it does from 0.21."""
    from importlib.metadata import EntryPoint

    import tomllib
    from axolotl.integrations import base

    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    group = "axolotl.plugins"
    points = [EntryPoint(*item, group=group) for item in project["entry-points"][group].items()]

    def switch(on: bool) -> None:
        monkeypatch.setattr(base, "entry_points", lambda group: points if on else [], raising=False)
        base.PluginManager._instance = None

    return switch


@pytest.mark.skipif(not contract.finds_plugins(), reason="this Axolotl finds no installed plugins")
def test_an_installed_plugin_trains_without_a_line(train: Any, installed: Any, tmp_path: Path) -> None:
    installed(True)
    log = train(plugins=None)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-4) and "aspo/weight_mean" in log[1]
    saved = yaml.safe_load((tmp_path / "out" / "aspo_config.yaml").read_text())
    assert saved["plugins"] == [PLUGIN]


@pytest.mark.parametrize("kind", ["text", "images"])
def test_dpo_is_axolotls_own_where_this_package_is_installed(
    kind: str, train: Any, installed: Any, models: Path, datasets: Path, tmp_path: Path
) -> None:
    """Also after a run of ASPO in the same process."""
    if kind == "images" and not contract.finds_plugins():
        pytest.skip("this Axolotl trains no preferences with images")
    changes: dict[str, Any] = {"rl": "dpo", "plugins": None, "aspo": None, "seed": 3}
    if kind == "text":
        changes |= {"base_model": str(models / "text"), "adapter": None, "lora_target_modules": None}
        changes["datasets"] = [{"path": str(datasets / "plain.jsonl"), "split": "train"}]
    else:
        changes |= {
            "datasets": [{"path": str(datasets / "trl"), "split": "train"}],
            "processor_type": "AutoProcessor",
        }
    installed(False)
    before = train(**changes, output_dir=str(tmp_path / "before"))
    installed(True)
    train(output_dir=str(tmp_path / "aspo"))
    after = train(**changes, output_dir=str(tmp_path / "after"))
    same(after, before, rel=0)
    assert not any(name.startswith("aspo/") for entry in after for name in entry)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(train: Any, datasets: Path, tmp_path: Path) -> None:
    """With accumulation, gradient checkpointing, dropout of the adapter and a cosine schedule.

    On the same data that another model scored, it does not go on.
    """
    common = {
        "max_steps": 4,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True,
        "lora_dropout": 0.1,
        "lr_scheduler": "cosine",
        "save_steps": 2,
    }
    whole = train(**common, output_dir=str(tmp_path / "whole"))
    resumed = train(
        **common,
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"),
        output_dir=str(tmp_path / "resumed"),
    )
    for ours, theirs in zip(resumed, whole, strict=True):
        numbers = {
            name for name, value in theirs.items() if isinstance(value, float) and "runtime" not in name
        }
        assert {name: ours[name] for name in numbers} == {name: theirs[name] for name in numbers}
    rescored = tmp_path / "rescored"
    shutil.copytree(datasets / "many", rescored)
    (rescored / "aspo.json").write_text(json.dumps({"scorer": {"model": "another"}}))
    with pytest.raises(ValueError, match="another objective: scorers was .*, now .*another"):
        train(
            **common,
            datasets=[{"path": str(rescored)}],
            resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"),
            output_dir=str(tmp_path / "rescored-out"),
        )


def test_sets_without_similarities_stop_before_the_model_loads(
    command: Any, datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axolotl.loaders import ModelLoader

    monkeypatch.setattr(ModelLoader, "load", lambda self: pytest.fail("the model was loaded"))
    both = [{"path": str(datasets / "many")}, {"path": str(datasets / "unscored")}]
    for changes in ({"datasets": both}, {"test_datasets": [{"path": str(datasets / "trl")}]}):
        with pytest.raises(
            ValueError, match=r"aspo-data score.*`aspo: similarity_model`.*`aspo: alpha` to 0"
        ):
            command(**changes)
    with pytest.raises(ValueError, match="`sequence_len` would cut image tokens.*processor_kwargs.*of 20"):
        command(sequence_len=20)
    with pytest.raises(ValueError, match="row 0 of .*many: a pair is .* tokens longer than sequence_len 60"):
        command(sequence_len=60, excess_length_strategy="raise")
    with pytest.raises(ValueError, match="no split train"):
        command(
            datasets=[{"path": str(datasets / "many"), "split": None, "data_files": None}]
            and split_only(datasets)
        )


def split_only(datasets: Path) -> list[dict[str, Any]]:
    from datasets import Dataset, DatasetDict

    folder = datasets / "saved"
    DatasetDict({"pairs": Dataset.from_dict({"chosen": ["a"], "rejected": ["b"]})}).save_to_disk(folder)
    return [{"path": str(folder)}]


def test_sets_of_every_kind_are_mixed_and_scored_once(
    train: Any, models: Path, datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Scored, unscored (TRL's layout) and text-only rows; long rows dropped with a count; full tuning."""
    import dataset_tools.scoring.scorer

    monkeypatch.setenv("ASPO_CACHE", str(tmp_path / "scores"))
    common = {
        "aspo": {"alpha": 0.5, "similarity_model": str(models / "clip"), "normalization": "reward"},
        "datasets": [{"path": str(datasets / name)} for name in ("many", "trl", "plain.jsonl")],
        "sequence_len": 150,
        "excess_length_strategy": "drop",
        "adapter": None,
        "lora_target_modules": None,
        "micro_batch_size": 4,
        "max_steps": 4,
        "save_steps": 4,
    }
    first = train(**common, output_dir=str(tmp_path / "first"))
    assert "pairs left out" in caplog.text and "`sequence_len` leaves no room" in caplog.text
    assert 0 < sum(entry["aspo/missing_similarity_share"] for entry in first) < 4  # the text-only rows
    scorer = dataset_tools.scoring.scorer
    monkeypatch.setattr(scorer, "SentenceScorer", lambda *args, **options: pytest.fail("scored twice"))
    for prepared in (tmp_path / "prepared").glob("*"):
        if prepared.is_dir():
            __import__("shutil").rmtree(prepared)
    second = train(**common, output_dir=str(tmp_path / "second"))
    assert [entry["loss"] for entry in first] == [entry["loss"] for entry in second]


def test_early_stopping_and_the_best_model(command: Any, datasets: Path) -> None:
    """Axolotl reads these keys for supervised fine-tuning alone. Nothing is learnt, so nothing improves."""
    output = command(
        max_steps=6, learning_rate=1e-15, save_steps=1, eval_steps=1, early_stopping_patience=1,
        test_datasets=[{"path": str(datasets / "eval"), "split": "train"}],
    )  # fmt: skip
    state = json.loads((Path(output) / "checkpoint-2" / "trainer_state.json").read_text())
    assert not (Path(output) / "checkpoint-3").exists()
    assert state["best_global_step"] == 1 and state["best_metric"] == pytest.approx(0.6931, abs=1e-3)


def test_arguments_of_every_trainer_are_passed_on() -> None:
    from axolotl.utils.dict import DictDefault

    from aspo_plugin.axolotl.config import TRAINER
    from aspo_plugin.axolotl.training_arguments import callbacks, training_args

    given = {
        "ddp_find_unused_parameters": False, "ddp_timeout": 7, "metric_for_best_model": "rewards/margins",
        "greater_is_better": True, "load_best_model_at_end": True, "dataloader_drop_last": True,
        "auto_find_batch_size": True, "ddp_bucket_cap_mb": 3, "ddp_broadcast_buffers": False,
    }  # fmt: skip
    args = training_args(DictDefault({"trainer_cls": TRAINER, "device": "cuda", **given}))
    assert args == {"router_aux_loss_coef": 0.0, **given}
    assert callbacks(DictDefault({"trainer_cls": TRAINER})) == []


@pytest.mark.parametrize("option", ["qlora", "reference"])
def test_other_ways_to_hold_the_models(option: str, train: Any) -> None:
    changes = {
        "qlora": {"adapter": "qlora", "load_in_4bit": True},
        "reference": {"rl_adapter_ref_model": True},  # the reference is a model of its own beside the adapter
    }[option]
    log = train(**changes)
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and log[1]["loss"] != log[0]["loss"]


def test_what_was_learned_is_saved_on_ctrl_c(command: Any, config: dict[str, Any], monkeypatch: Any) -> None:
    """Axolotl saves the model it loaded, below the adapter that was trained."""
    import os
    import signal

    from safetensors.torch import load_file

    from aspo_plugin.axolotl.trainer import AxolotlAspoTrainer

    log = AxolotlAspoTrainer.log

    def interrupted(self: Any, *args: Any, **options: Any) -> None:
        log(self, *args, **options)
        if self.state.global_step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(AxolotlAspoTrainer, "log", interrupted)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            command("train")
    finally:
        signal.signal(signal.SIGINT, before)
    adapter = load_file(f"{config['output_dir']}/adapter_model.safetensors")
    assert any("lora_B" in name and weight.any() for name, weight in adapter.items())


def test_a_run_keeps_samples_where_it_is_told_to(train: Any, datasets: Path, tmp_path: Path) -> None:
    train(aspo={"alpha": 0.3, "log_samples": 2})
    rows = samples.read(tmp_path / "out")
    assert list(samples.pairs(rows)) == [(step, pair) for step in (1, 2) for pair in (0, 1)]
    samples.check(rows, 0.3, data.rows(24, 1, sentences=(3, 5)))
