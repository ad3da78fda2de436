"""`AspoTrainer` against TRL's own DPO, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import DPOTrainer

from aspo_plugin.training.reference import Live
from aspo_plugin.trl import AspoConfig, AspoTrainer
from aspo_plugin.trl.arguments import refuse_options
from tests.support import data

from .conftest import as_dataset

COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "max_steps": 4,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "report_to": [],
    "seed": 3,
}
NUMBERS = (
    "loss", "grad_norm", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
    "logps/chosen", "logps/rejected",
)  # fmt: skip


def log_of(trainer: Any) -> list[dict[str, Any]]:
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.fixture
def run(model: Any, tmp_path: Path) -> Any:
    def go(rows: Any, name: str = "llava", evaluated: Any = None, keep: Any = None, **changes: Any) -> Any:
        more = {key: changes.pop(key) for key in ("peft_config", "ref_model") if key in changes}
        trainer = AspoTrainer(
            str(model(name)),
            args=AspoConfig(str(tmp_path / "aspo"), **{**COMMON, **changes}),
            train_dataset=as_dataset(rows),
            eval_dataset=evaluated,
            **more,
        )
        return trainer if keep else log_of(trainer)

    return go


@pytest.mark.parametrize("name", ["qwen2_vl", "text"])
def test_one_sentence_is_trls_own_dpo(name: str, run: Any, model: Any, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    rows = data.rows(8, sentences=1, text_only=name == "text")
    pairs = as_dataset(rows).select_columns(["prompt", "chosen", "rejected"] + ["images"] * (name != "text"))
    args = DPOConfig(str(tmp_path / "dpo"), **COMMON)
    dpo = log_of(DPOTrainer(str(model(name)), args=args, train_dataset=pairs))
    for normalization in ("weight", "reward"):
        aspo = run(rows, name, aspo_normalization=normalization)
        for step, (ours, theirs) in enumerate(zip(aspo, dpo, strict=True)):
            for number in NUMBERS:
                assert ours[number] == pytest.approx(theirs[number], rel=5e-5, abs=2e-5), (step, number)
    assert max(entry["loss"] for entry in dpo) - min(entry["loss"] for entry in dpo) > 1e-2


def test_several_sentences_are_not_dpo_and_every_setting_matters(run: Any) -> None:
    rows = data.rows(8, sentences=(3, 5))
    runs = [
        run(rows, max_steps=2, aspo_alpha=alpha, aspo_normalization=normalization)
        for alpha, normalization in ((0.5, "weight"), (1.0, "weight"), (0.0, "weight"), (0.5, "none"))
    ]
    assert len({entry[-1]["loss"] for entry in runs}) == 4
    assert runs[0][0]["aspo/factor_mean"] < 1 == runs[3][0]["aspo/factor_mean"]


def test_the_adapter_is_off_for_the_reference(run: Any) -> None:
    """After a step with an adapter the rewards are not 0, and they are those of a reference of its own."""
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText

    rows = data.rows(8, sentences=(2, 4))
    lora = {"r": 4, "target_modules": r".*language_model.*\.(q_proj|v_proj)", "init_lora_weights": "gaussian"}
    off = run(rows, peft_config=LoraConfig(**lora))
    trainer = run(rows, keep=True, peft_config=LoraConfig(**lora))
    path = trainer.model.get_base_model().config._name_or_path
    trainer.ref_model = AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).eval()
    apart = log_of(trainer)
    assert [e["loss"] for e in off] == pytest.approx([e["loss"] for e in apart], rel=1e-5)
    assert off[-1]["rewards/margins"] != 0


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_start_away_from_the_reference_stops(kind: str, run: Any) -> None:
    """As an adapter does that rewrites the base, or new weights drawn at random."""
    from peft import LoraConfig

    from aspo_plugin.training.first_step import FirstStepError

    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    trainer = run(data.rows(4), keep=True, peft_config=config if kind == "lora" else None)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name or kind == "full" and "lm_head" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    with pytest.raises(FirstStepError, match=r"differ by .* per token.*name the model"):
        trainer.train()


def test_a_step_runs_the_frozen_tower_once_and_leaves_no_hook(run: Any) -> None:
    """TRL's way to switch checkpointing off and on again adds a hook to the embedding in each step."""
    from peft import LoraConfig

    trainer = run(
        data.rows(8, 1, sentences=(2, 4)),
        keep=True,
        peft_config=LoraConfig(target_modules=r".*language_model.*q_proj", r=4),
        gradient_checkpointing=True,
    )
    embedding = trainer.model.get_input_embeddings()
    counts: list[tuple[int, int]] = []
    forwards: list[int] = []
    tower = next(m for name, m in trainer.model.named_modules() if name.endswith("vision_tower"))
    tower.embeddings.register_forward_hook(lambda *_: forwards.append(1))
    step = trainer._compute_loss

    def counted(*args: Any, **kwargs: Any) -> Any:
        before = len(forwards)
        loss = step(*args, **kwargs)
        counts.append((len(forwards) - before, len(embedding._forward_hooks)))
        return loss

    trainer._compute_loss = counted
    trainer.train()
    assert [forward for forward, _ in counts][1:] == [1, 1, 1]  # the first step checks itself
    assert len({hooks for _, hooks in counts}) == 1


def test_adapter_inputs_are_not_copied_under_mixed_precision(run: Any) -> None:
    from peft import LoraConfig

    trainer = run(data.rows(2), keep=True, bf16=True, peft_config=LoraConfig(target_modules=["q_proj"]))
    layers = [m for m in trainer.model.modules() if hasattr(m, "lora_A")]
    given = torch.ones(1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layers and all(m._cast_input_dtype(given, torch.float32) is given for m in layers)
    assert all(m._cast_input_dtype(given, torch.float32).dtype == torch.float32 for m in layers)


def test_no_dropout_is_left_in_the_policy(run: Any) -> None:
    trainer = run(data.rows(2), "instructblip", keep=True)
    rates = [getattr(m, "attention_dropout", 0) for m in trainer.model.modules()]
    rates += [m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates and not any(rates)


def test_similarities_keep_their_digits_under_deepspeed(run: Any, monkeypatch: Any) -> None:
    from transformers import Trainer

    trainer = run(data.rows(2), keep=True)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    given = batch["similarity"].clone()

    def cast(self: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value.to(torch.bfloat16) if torch.is_tensor(value) and value.is_floating_point() else value
            for key, value in inputs.items()
        }

    monkeypatch.setattr(Trainer, "_prepare_inputs", cast)
    prepared = trainer._prepare_inputs(batch)
    assert torch.equal(prepared["similarity"], given) and prepared["pixel_values"].dtype == torch.bfloat16


def test_evaluation_takes_raw_sets_and_names_its_metrics(run: Any) -> None:
    trainer = run(data.rows(4), keep=True)
    metrics = trainer.evaluate(as_dataset(data.rows(3, 5)), metric_key_prefix="test")
    assert {"test_loss", "test_rewards/margins", "test_aspo/weight_mean"} <= set(metrics)
    assert not any(name.startswith("eval_") for name in metrics)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aspo_alpha": 2}, "aspo_alpha is 2"),
        ({"aspo_normalization": "length"}, "aspo_normalization is 'length'"),
        ({"beta": 0.0}, "beta is 0.0, but it scales the margin"),
        ({"loss_type": ["ipo"]}, r"loss_type is \['ipo'\], which ASPO cannot use: the loss of ASPO"),
        ({"use_liger_kernel": True}, "no per-token log-probs"),
        ({"label_smoothing": 0.1}, "no label smoothing"),
        ({"precompute_ref_log_probs": True}, "aspo_reference_cache"),
        ({"sync_ref_model": True, "aspo_reference_cache": "cache"}, "stale"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        AspoConfig(str(tmp_path), **{**COMMON, **changes})


def test_only_similarities_where_there_are_none(run: Any) -> None:
    """An alpha of 1 on texts would train plain DPO; beside scored images it may."""
    texts = data.rows(2, text_only=True)
    with pytest.raises(ValueError, match="`aspo_alpha` is 1.*no training row has one.*plain DPO"):
        run(texts, aspo_alpha=1.0)
    run([*texts, *data.rows(1)], keep=True, aspo_alpha=1.0)


def test_compute_metrics_is_refused(model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compute_metrics needs logits"):
        AspoTrainer(
            str(model("llava")),
            args=AspoConfig(str(tmp_path), **COMMON),
            train_dataset=as_dataset(data.rows(2)),
            compute_metrics=lambda _: {},
        )


def test_the_length_limit_is_that_of_the_config(run: Any) -> None:
    rows = data.rows(4, text_only=True, sentences=4)
    whole = run(rows, "text", keep=True).train_dataset
    lengths = [len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in whole]
    limit = max(lengths) - 3
    for row in run(rows, "text", keep=True, max_length=limit).train_dataset:
        assert len(row["prompt_ids"]) + max(map(len, (row["chosen_ids"], row["rejected_ids"]))) <= limit


# Written out, so that no option is dropped from the table unnoticed.
BYPASSES = {
    "loss_type": ["ipo"],
    "loss_weights": [1.0],
    "ld_alpha": 0.5,
    "f_divergence_type": "forward_kl",
    "label_smoothing": 0.1,
    "label_smoothing_factor": 0.1,
    "use_weighting": True,
    "use_liger_kernel": True,
    "padding_free": True,
    "pad_to_multiple_of": 8,
    "router_aux_loss_coef": 0.001,
    "precompute_ref_log_probs": True,
    "truncation_mode": "keep_end",
}


def test_every_option_that_would_bypass_aspo_is_refused(model: Any, tmp_path: Path) -> None:
    """Also one that was set after the config was checked, as a host does."""
    from aspo_plugin.trl.arguments import _FIXED

    assert _FIXED.keys() == BYPASSES.keys()
    for option, value in BYPASSES.items():
        args = AspoConfig(str(tmp_path), **COMMON)
        setattr(args, option, value)
        with pytest.raises(ValueError, match=f"{option} is .*which ASPO cannot use"):
            AspoTrainer(str(model("text")), args=args, train_dataset=as_dataset(data.rows(2, text_only=True)))


def test_rows_are_not_grouped_by_length_nor_cut_over_processes(tmp_path: Path) -> None:
    from accelerate import ParallelismConfig

    AspoConfig(str(tmp_path), **COMMON, train_sampling_strategy="sequential")
    with pytest.raises(ValueError, match="'group_by_length', but the length of a row with images"):
        AspoConfig(str(tmp_path), **COMMON, train_sampling_strategy="group_by_length")
    for size in ("cp_size", "sp_size"):
        args = AspoConfig(str(tmp_path), **COMMON)
        args.parallelism_config = ParallelismConfig(**{size: 2})
        with pytest.raises(ValueError, match=f"{size} of parallelism_config is 2"):
            refuse_options(args)


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_holds_no_graph_and_the_prefix_is_shared(
    lora: bool, run: Any, monkeypatch: Any
) -> None:
    from peft import LoraConfig

    made = []
    original = Live.logps

    def kept(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(Live, "logps", kept)
    peft = LoraConfig(target_modules=["q_proj"], r=4) if lora else None
    for setting, share in (("auto", 1.0), ("false", 0.0)):
        log = run(data.rows(4), max_steps=2, aspo_shared_prefix=setting, peft_config=peft)
        assert [entry["aspo/shared_prefix_share"] for entry in log] == [share] * 2
    assert len(made) == 4 and not any(logps.requires_grad for logps in made)


def test_several_gpus_without_a_launcher_are_refused(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = AspoConfig(str(tmp_path), **COMMON)
    args._n_gpu = 2 * args.n_gpu or 2
    with pytest.raises(ValueError, match="accelerate launch"):
        AspoTrainer(str(model("llava")), args=args, train_dataset=as_dataset(data.rows(2)))
    loaded = AutoModelForImageTextToText.from_pretrained(model("llava"))
    with pytest.raises(ValueError, match="accelerate launch"):  # before the pairs are prepared
        AspoTrainer(loaded, args=args, train_dataset=object())
    loaded.hf_device_map = {"model.vision_tower": 0, "model.language_model": 1}

    class AskedTheHost(Exception):
        pass

    def asked(*_: Any, **__: Any) -> None:
        raise AskedTheHost

    monkeypatch.setattr(DPOTrainer, "__init__", asked)  # spread over them: the host decides
    with pytest.raises(AskedTheHost):
        AspoTrainer(loaded, args=args, train_dataset=as_dataset(data.rows(2)))


def test_the_processor_is_of_the_models_revision(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def processor(name: str, **options: Any) -> Any:
        asked.append((name, options["revision"]))
        raise OSError("enough")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", processor)
    for options in (None, {"revision": "v2"}):
        args = AspoConfig(str(tmp_path), **COMMON, model_init_kwargs=options)
        with pytest.raises(OSError, match="enough"):
            AspoTrainer(str(model("llava")), args=args, train_dataset=as_dataset(data.rows(2)))
    assert asked == [(str(model("llava")), "main"), (str(model("llava")), "v2")]


def test_sets_prepared_without_similarities_are_refused_too(
    model: Any, processing: Any, tmp_path: Path
) -> None:
    from aspo_plugin.trl.datasets import prepare_dataset

    unscored = as_dataset(data.rows(2)).remove_columns(["chosen_similarity"])
    prepared = prepare_dataset(unscored, processing("llava"), alpha=0)
    assert len(prepare_dataset(prepared, processing("llava"), alpha=0)) == 2
    with pytest.raises(ValueError, match="no similarities"):
        AspoTrainer(str(model("llava")), args=AspoConfig(str(tmp_path), **COMMON), train_dataset=prepared)


def test_pairs_that_are_left_out_are_listed(model: Any, tmp_path: Path) -> None:
    """In the output folder, those of this run alone; where none is, no list of an earlier run stays."""
    rows, evaluated = data.rows(4, 1), data.rows(3, 2)
    rows[2]["chosen"][0]["content"] = ""
    evaluated[0]["images"][0]["bytes"] = evaluated[0]["images"][0]["bytes"][:200]
    path = tmp_path / "aspo_rejected.jsonl"

    def made(train: Any, other: Any) -> AspoTrainer:
        args = AspoConfig(str(tmp_path), **COMMON)
        return AspoTrainer(str(model("llava")), args=args, train_dataset=train, eval_dataset=other)

    for _ in range(2):
        trainer = made(as_dataset(rows), {"some": as_dataset(evaluated)})
        records = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(r["split"], r["row"], r["id"], r["reason"]) for r in records] == [
            ("training", 2, rows[2]["id"], "empty"),
            ("evaluation", 0, evaluated[0]["id"], "image"),
        ]
    trainer.evaluate(as_dataset(evaluated), metric_key_prefix="later")
    names = [json.loads(line)["dataset"] for line in path.read_text().splitlines()]
    assert names == ["the train dataset", "the some dataset", "the later dataset"]
    made(as_dataset(rows[:2]), None)
    assert not path.exists()


def test_the_best_model_is_loaded_at_the_end(run: Any, tmp_path: Path) -> None:
    """LLaVA is saved under other names than it trains under."""
    from safetensors.torch import load_file

    rows = data.rows(4, sentences=(2, 4))
    trainer = run(
        rows, keep=True, evaluated=as_dataset(rows), save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, load_best_model_at_end=True, metric_for_best_model="eval_loss",
        greater_is_better=True,
    )  # fmt: skip
    trainer.train()
    best = tmp_path / "aspo" / "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(best)
    trainer.save_model(str(tmp_path / "final"))
    final, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "final", best))
    assert final.keys() == expected.keys()
    assert all(torch.equal(final[name], expected[name]) for name in expected)


def test_a_checkpoint_is_no_reference_of_the_run_that_resumes_it(run: Any, tmp_path: Path) -> None:
    """Given as the model, it would be: full training then has a copy of it beside the policy."""
    rows = data.rows(4, sentences=(2, 4))
    saved = {"keep": True, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    run(rows, **saved).train()
    checkpoint = tmp_path / "aspo" / "checkpoint-1"
    with pytest.raises(ValueError, match="another objective: reference was llava, now checkpoint-1"):
        AspoTrainer(
            str(checkpoint),
            args=AspoConfig(str(tmp_path / "aspo"), **COMMON),
            train_dataset=as_dataset(rows),
        ).train(resume_from_checkpoint=str(checkpoint))


def test_the_example_runs(model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    import runpy

    folder = data.write_converted(tmp_path / "set", data.rows(4))
    out = tmp_path / "out"
    arguments = ["--model", model("llava"), "--dataset", folder, "--output", out, "--max-steps", "1", "--cpu"]
    monkeypatch.setattr("sys.argv", ["trl_aspo.py", *map(str, arguments)])
    runpy.run_path("docs/examples/trl_aspo.py", run_name="__main__")
    assert (out / "adapter_model.safetensors").exists()


def test_every_setting_is_an_option_of_the_config(tmp_path: Path) -> None:
    """Without a line in TRL's own part: a setting is written in `aspo_plugin.config` alone."""
    import pickle
    from dataclasses import fields

    from transformers import HfArgumentParser

    from aspo_plugin.config import AspoSettings

    options = {option.name: option for option in fields(AspoConfig)}
    for setting in fields(AspoSettings):
        option = options[f"aspo_{setting.name}"]
        assert option.default == setting.default and option.metadata["help"] == setting.metadata["help"]
        assert option.metadata.get("choices") == setting.metadata.get("choices")
    words = ["--output_dir", str(tmp_path), "--aspo_alpha", "0.25", "--use_cpu", "--report_to", "none"]
    [config] = HfArgumentParser(AspoConfig).parse_args_into_dataclasses(words)
    assert config.aspo_alpha == 0.25 and pickle.loads(pickle.dumps(config)).aspo_alpha == 0.25
