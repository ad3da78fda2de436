"""Every bad value or combination is one clear error, and it comes before a model loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support import data

from .conftest import write_sets


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from aspo_plugin.llamafactory import workflow

    def load_model(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(workflow, "load_model", load_model)


FIELDS = [
    ({"aspo_alpha": 1.5}, r"aspo_alpha is 1\.5.*number from 0 to 1"),
    ({"aspo_alpha": "half"}, r"aspo_alpha is 'half'"),
    ({"aspo_normalization": "sum"}, r"aspo_normalization is 'sum': choose one of weight, reward, none"),
    ({"aspo_shared_prefix": "maybe"}, r"aspo_shared_prefix is 'maybe'.*auto"),
    ({"aspo_similarity_model": ""}, r"aspo_similarity_model is ''"),
    ({"aspo_beta": 0.1}, r"aspo_beta"),
    ({"pref_loss": "ipo"}, r"pref_loss: ipo.*remove `pref_loss`"),
    ({"pref_beta": 0.0}, r"pref_beta` is 0\.0.*above 0"),
    ({"dpo_label_smoothing": 0.1}, r"dpo_label_smoothing: 0\.1.*remove it"),
    ({"ld_alpha": 0.5}, r"ld_alpha: 0\.5.*remove"),
    ({"use_mca": True}, r"use_mca.*bypass ASPO.*unset USE_MCA"),
    ({"use_hyper_parallel": True}, r"use_hyper_parallel"),
    ({"streaming": True, "aspo_reference_cache": "c"}, r"aspo_reference_cache: c.*streaming: true.*turn one"),
    ({"ignore_pad_token_for_loss": False}, r"ignore_pad_token_for_loss: false.*remove it"),
    ({"stage": "dpo", "aspo_alpha": 0.2}, r"aspo_alpha has no effect with `stage: dpo`.*stage: aspo"),
    # As the defaults, too: a recipe of which only the stage was forgotten would train plain DPO.
    (
        {"stage": "dpo", "aspo_alpha": 0.5, "aspo_normalization": "weight"},
        r"aspo_alpha, aspo_normalization has no",
    ),
    ({"packing": True, "neat_packing": True}, r"neat_packing"),
    ({"streaming": True}, r"streaming: true` needs `dataloader_num_workers` of 1 or more.*_workers: 1`"),
    (
        {"streaming": True, "aspo_similarity_model": "clip"},
        r"aspo_similarity_model: clip.*streaming: true.*aspo-data score",
    ),
]


@pytest.mark.parametrize(("changes", "message"), FIELDS, ids=lambda value: str(value)[:40])
def test_fields(changes: dict[str, Any], message: str, train: Any) -> None:
    with pytest.raises((ValueError, ImportError), match=message):
        train(**changes)


@pytest.mark.parametrize(
    ("name", "value"), [("USE_MCA", "1"), ("USE_MCA", "true"), ("USE_MCA", "Y"), ("USE_MEGATRON_BRIDGE", "1")]
)
def test_megatron_by_environment(name: str, value: str, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.hparams.finetuning_args import FinetuningArguments

    from aspo_plugin.llamafactory.arguments import extend

    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"unset {name}"):
        FinetuningArguments(stage="aspo")
    FinetuningArguments(stage="dpo")
    assert issubclass(extend(FinetuningArguments), FinetuningArguments)


@pytest.mark.host
@pytest.mark.parametrize("stage", ["aspo", "dpo"])
@pytest.mark.parametrize("flags", [False, True], ids=["file", "flags"])
def test_v1_has_no_stage_aspo(stage: str, flags: bool, tmp_path: Path) -> None:
    """Also where unknown keys are let through; what else v1 is given is its own matter."""
    import os
    import subprocess
    import sys

    from aspo_plugin.llamafactory.contract import host_version

    if host_version() == "0.9.4":
        pytest.skip("its v1 prints how it is used, and trains nothing")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"stage: {stage}\n")
    command = [str(Path(sys.executable).parent / "llamafactory-cli"), "train"]
    run = subprocess.run(
        [*command, *(["--stage", stage] if flags else [str(recipe)])],
        env={**os.environ, "USE_V1": "1", "ALLOW_EXTRA_KEYS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    refused = "USE_V1=1 starts LLaMA-Factory's v1, which has no `stage: aspo`" in run.stderr
    assert refused == (stage == "aspo"), run.stderr[-2000:]


@pytest.mark.parametrize("option", ["use_kt", "use_unsloth"])
def test_paths_around_our_trainer(option: str, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from types import ModuleType

    from llamafactory.hparams import ModelArguments, parser

    monkeypatch.setattr(parser, "check_version", lambda *args, **kwargs: None)  # as if it were installed
    monkeypatch.setattr(ModelArguments, "apply_kt_config", lambda *args: None, raising=False)  # after 0.9.5
    for name in ("kt_kernel", "kt_kernel.sft", "ktransformers", "unsloth"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with pytest.raises(ValueError, match=f"{option}.*remove it"):
        train(**{option: True})


def test_rows_are_not_grouped_by_length(train: Any) -> None:
    from transformers import TrainingArguments

    old = "group_by_length" in TrainingArguments.__dataclass_fields__
    grouped = {"group_by_length": True} if old else {"train_sampling_strategy": "group_by_length"}
    with pytest.raises(ValueError, match="rows cannot be grouped by length"):
        train(**grouped)


def test_unscored_images(train: Any) -> None:
    message = r"dataset unscored.* has images but no .*similarities.*aspo-data score.*" + (
        r"aspo_similarity_model: .*aspo_alpha: 0`"
    )
    for dataset in ("unscored", "many,unscored"):
        with pytest.raises(ValueError, match=message):
            train(dataset=dataset)
    with pytest.raises(ValueError, match=message):
        train(eval_dataset="unscored", do_eval=True)
    with pytest.raises(ValueError, match=message):
        train(dataset="unscored", streaming=True, dataloader_num_workers=1)
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(dataset="unscored", aspo_alpha=0)
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(dataset="text")


def test_data_without_ranking(train: Any, tmp_path: Path) -> None:
    (tmp_path / "plain.json").write_text(json.dumps([{"instruction": "Hi", "output": "Hello."}]))
    info = {"plain": {"file_name": "plain.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    message = r"dataset plain is not marked as ranking data.*\"ranking\": true"
    with pytest.raises(ValueError, match=message):
        train(dataset_dir=str(tmp_path), dataset="plain")
    write_sets(tmp_path, {"pairs": data.rows(4)})
    with pytest.raises(ValueError, match=message):
        train(dataset_dir=str(tmp_path), dataset="pairs", eval_dataset="plain", do_eval=True)


def test_tokenized_without_sentences(train: Any, tmp_path: Path, warnings: list[str]) -> None:
    """A cache that plain DPO wrote is refused; one that ASPO wrote is read, with what it refused."""
    other, own = str(tmp_path / "dpo"), str(tmp_path / "aspo")
    train(stage="dpo", tokenized_path=other, output_dir=str(tmp_path / "out-dpo"))
    with pytest.raises(ValueError, match="another stage tokenized, without sentences.*set another"):
        train(tokenized_path=other)
    rows = data.rows(6, 31)
    rows[2]["chosen"][0]["content"] = " "
    some = str(write_sets(tmp_path / "some", {"some": rows}))
    for name in ("first", "second"):
        with pytest.raises(AssertionError, match="a model was loaded"):
            train(dataset_dir=some, dataset="some", tokenized_path=own, output_dir=str(tmp_path / name))
        [line] = (tmp_path / name / "aspo_rejected.jsonl").read_text().splitlines()
        assert json.loads(line)["id"] == "drawn-31-2"
    assert sum("refused 1 of 6 training rows" in warning for warning in warnings) == 2
    unscored = str(tmp_path / "unscored")
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(tokenized_path=unscored, dataset="unscored", aspo_alpha=0)
    with pytest.raises(ValueError, match="no image-text similarities"):
        train(tokenized_path=unscored, dataset="unscored")


def test_tokenized_data_is_not_scored_again(train: Any, models: Path, tmp_path: Path) -> None:
    """So no run says that a model scored it which did not."""
    clip = str(models / "clip")
    weightless, own, scored = (
        {"dataset": dataset, "tokenized_path": str(tmp_path / name)}
        for name, dataset in (("weightless", "unscored"), ("own", "unscored"), ("scored", "many"))
    )
    for changes in (
        {**weightless, "aspo_alpha": 0, "aspo_similarity_model": "another/model"},
        {**own, "aspo_similarity_model": clip},
        {**own, "aspo_similarity_model": clip},
        {**own, "aspo_alpha": 0, "aspo_similarity_model": "another/model"},
        scored,
        scored,
    ):
        with pytest.raises(AssertionError, match="a model was loaded"):
            train(**changes)
    message = "no image-text similarities.*`aspo_similarity_model` neither. Set another `tokenized_path`"
    with pytest.raises(ValueError, match=message):
        train(**weightless, aspo_similarity_model=clip)
    with pytest.raises(ValueError, match="scored by .*clip, and another/model would.*Set another"):
        train(**own, aspo_similarity_model="another/model")
    with pytest.raises(ValueError, match="scored by no model, and another/model would"):
        train(**scored, aspo_similarity_model="another/model")


def test_nothing_left(train: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no training row is left.*40 × `cutoff_len` would cut image tokens"
    ):
        train(cutoff_len=16)
    rows = data.rows(2, 9)
    for row in rows:
        row["chosen"][0]["content"] = " "
    write_sets(tmp_path, {"empty": rows})
    with pytest.raises(ValueError, match="2 × a response is empty.*aspo_rejected.jsonl"):
        train(dataset_dir=str(tmp_path), dataset="empty")
    assert len((tmp_path / "out" / "aspo_rejected.jsonl").read_text().splitlines()) == 2


def test_only_similarities_where_there_are_none(train: Any, tmp_path: Path) -> None:
    """`aspo_alpha: 1` on text, video or audio would train plain DPO."""
    message = r"aspo_alpha: 1` .* no training row has one.*plain DPO.*aspo_alpha: 0`"
    with pytest.raises(ValueError, match=message):
        train(dataset="text", aspo_alpha=1)
    with pytest.raises(ValueError, match=message):
        train(dataset="text", aspo_alpha=1, streaming=True, dataloader_num_workers=1)
    kept = str(tmp_path / "tokenized")
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(dataset="text", tokenized_path=kept)
    with pytest.raises(ValueError, match=message):
        train(dataset="text", tokenized_path=kept, aspo_alpha=1)
    for changes in ({"dataset": "many,text"}, {"dataset": "many", "eval_dataset": "text", "do_eval": True}):
        with pytest.raises(AssertionError, match="a model was loaded"):
            train(**changes, aspo_alpha=1)


def test_given_weights_that_the_data_lacks_are_told_in_their_own_words(train: Any, tmp_path: Path) -> None:
    """Neither a scorer nor another alpha, which the weighting refuses, is offered for them."""
    given = {"aspo_weighting": "given", "aspo_alpha": 1}
    message = r"has no number for a sentence of its {} answers.*`aspo_weighting` is given"
    for changes in (
        {"dataset": "unscored"},
        {"dataset": "text"},
        {"dataset": "text", "streaming": True, "dataloader_num_workers": 1},
    ):
        with pytest.raises(ValueError, match=message.format("chosen")) as error:
            train(**given, **changes)
        assert not re.search("similarity_model|aspo_alpha|aspo-data score", str(error.value))
    rows = [{**row, "rejected_similarity": None} for row in data.rows(4, text_only=True)]
    for row in rows:
        row["chosen_similarity"] = [0.5] * len(row["chosen_sentences"])
    write_sets(tmp_path, {"chosen": rows})
    own = {"dataset_dir": str(tmp_path), "dataset": "chosen"}
    with pytest.raises(ValueError, match=message.format("rejected")):
        train(**given, **own, aspo_weight_rejected=True)
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(**given, **own)


def test_keys_that_change_nothing_are_named_once(train: Any, warnings: list[str]) -> None:
    idle = {
        "packing": True,
        "shift_attn": True,
        "moe_aux_loss_coef": 0.1,
        "use_dft_loss": True,
        "compute_accuracy": True,
        "label_smoothing_factor": 0.1,
        "do_predict": True,
        "kto_chosen_weight": 2.0,
    }
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(**idle, eval_dataset="many")  # which `do_predict` asks for
    [warning] = [text for text in warnings if "changes nothing with `stage: aspo`" in text]
    assert all(f"`{key}`" in warning for key in idle)
    warnings.clear()
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(packing=False, kto_chosen_weight=1.0, label_smoothing_factor=0.0)
    assert not any("changes nothing" in text for text in warnings)


def test_every_key_that_changes_nothing_is_one_of_the_host() -> None:
    import dataclasses

    from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments

    from aspo_plugin.llamafactory import contract
    from aspo_plugin.llamafactory.checks import NO_EFFECT

    classes = {
        "data": DataArguments,
        "model": ModelArguments,
        "training": TrainingArguments,
        "finetuning": FinetuningArguments,
    }
    newer = {"fp8", "use_asft_loss", "use_eaft_loss"} if contract.host_version() == "0.9.4" else set()
    for group, names in NO_EFFECT.items():
        assert set(names) - newer <= {field.name for field in dataclasses.fields(classes[group])}, group


ALPACA = {"instruction": "Hi", "input": "", "chosen": "Hello. Good day.", "rejected": "No."}
TURN = {"from": "human", "value": "Hi"}
SHAREGPT = {
    "conversations": [TURN],
    "chosen": {"from": "gpt", "value": "Hello."},
    "rejected": {"from": "gpt", "value": "No."},
}
BOTH = {"chosen": "chosen", "rejected": "rejected"}
SHAPES = {
    "no column for the answers": (ALPACA, {}, r'`"columns"` name no `"chosen"`'),
    "a column that is not there": (
        ALPACA,
        {"columns": {**BOTH, "prompt": "question"}},
        r'no column `question`, which `"prompt"`.*columns are instruction, input, chosen',
    ),
    "texts for messages": (
        {**SHAREGPT, "chosen": "Hello."},
        {"formatting": "sharegpt", "columns": {**BOTH, "messages": "conversations"}},
        r'column `chosen` .* holds a text, but `"formatting": "sharegpt"` expects one message',
    ),
    "messages for texts": (
        {**ALPACA, "rejected": [TURN]},
        {"columns": {**BOTH, "prompt": "instruction"}},
        r"column `rejected` .* holds a list, but .* expects a text",
    ),
    "other names in a message": (
        {**SHAREGPT, "conversations": [{"role": "user", "content": "Hi"}]},
        {"formatting": "sharegpt", "columns": {**BOTH, "messages": "conversations"}},
        r'has no `from`: its keys are role, content. Set `"tags"',
    ),
    "a text for messages": (
        {**SHAREGPT, "conversations": "Hi"},
        {"formatting": "sharegpt", "columns": {**BOTH, "messages": "conversations"}},
        "column `conversations` .* holds a text, but .* expects a list of messages",
    ),
    "a folder of another kind": (
        {"question": "Hi", "chosen": "Hello."},
        {"formatting": "aspo"},
        "no column `prompt`, which `formatting: aspo`",
    ),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_columns_and_shapes_are_named(kind: str, train: Any, tmp_path: Path) -> None:
    row, entry, message = SHAPES[kind]
    (tmp_path / "odd.json").write_text(json.dumps([row] * 3))
    info = {"odd": {"file_name": "odd.json", "ranking": True, **entry}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=f"dataset odd.*{message}|{message}"):
        train(dataset_dir=str(tmp_path), dataset="odd", aspo_alpha=0)


def test_a_row_of_another_shape_is_refused(train: Any, tmp_path: Path, warnings: list[str]) -> None:
    """One odd row costs that row: the run goes on, and the row is listed with what was wrong with it."""
    by_robot = {**SHAREGPT, "chosen": {"from": "robot", "value": "Hello."}}
    (tmp_path / "odd.json").write_text(json.dumps([SHAREGPT, by_robot, SHAREGPT]))
    columns = {**BOTH, "messages": "conversations"}
    entry = {"file_name": "odd.json", "ranking": True, "formatting": "sharegpt", "columns": columns}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"odd": entry}))
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(dataset_dir=str(tmp_path), dataset="odd", aspo_alpha=0)
    [line] = (tmp_path / "out" / "aspo_rejected.jsonl").read_text().splitlines()
    refused = json.loads(line)
    assert (refused["row"], refused["reason"]) == (1, "unread") and "robot" in refused["detail"]


def test_an_adapter_that_is_trained_further_is_told(
    train: Any, tmp_path: Path, warnings: list[str], models: Path
) -> None:
    adapter = {"adapter_name_or_path": str(tmp_path / "adapter")}
    for more, told in (
        ({}, True),
        ({"create_new_adapter": True}, False),
        ({"ref_model": str(models / "llava"), "ref_model_adapters": str(tmp_path / "adapter")}, False),
    ):
        warnings.clear()
        with pytest.raises(AssertionError, match="a model was loaded"):
            train(**adapter, **more)
        found = [text for text in warnings if "starts away from its reference" in text]
        assert len(found) == told
        assert all("create_new_adapter: true" in text and "ref_model_adapters" in text for text in found)


def test_resuming_with_another_objective(train: Any, models: Path, tmp_path: Path) -> None:
    from aspo_plugin.training.resume import remember

    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    begun = {"aspo_alpha": 0.5, "aspo_normalization": "weight", "pref_beta": 0.1, "pref_ftx": 0.0}
    remember(checkpoint, {**begun, "pref_bco_weight": 0.0, "reference": "llava"})
    resumed = {"resume_from_checkpoint": str(checkpoint)}
    with pytest.raises(AssertionError, match="a model was loaded"):
        train(**resumed)
    for changes, message in (
        ({"aspo_alpha": 0.6}, r"aspo_alpha was 0\.5, now 0\.6"),
        ({"pref_beta": 0.2}, r"pref_beta was 0\.1, now 0\.2"),
        ({"pref_ftx": 0.5}, r"pref_ftx was 0\.0, now 0\.5"),
        ({"pref_bco_weight": 1.0}, r"pref_bco_weight was 0\.0, now 1\.0"),
        ({"ref_model": str(models / "reference")}, "reference was llava, now reference"),
        ({"adapter_name_or_path": "a", "create_new_adapter": True}, r"reference was llava, now llava \+ a"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**resumed, **changes)


def test_a_missing_place_is_named(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.data.template import Template

    monkeypatch.delattr(Template, "remove_thought")
    with pytest.raises(
        RuntimeError, match=r"data\.template\.ReasoningTemplate\.remove_thought does not exist"
    ):
        train()


def test_another_version_warns(train: Any, monkeypatch: pytest.MonkeyPatch, warnings: list[str]) -> None:
    from llamafactory.extras import env

    monkeypatch.setattr(env, "VERSION", "0.9.6.dev0")
    with pytest.raises(AssertionError, match="a model was loaded"):
        train()
    assert any("not with 0.9.6.dev0" in warning for warning in warnings)


def test_a_way_around_the_workflow_is_refused(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.hparams.finetuning_args import FinetuningArguments
    from llamafactory.train import tuner
    from llamafactory.train.dpo import run_dpo
    from llamafactory.train.dpo.trainer import CustomDPOTrainer

    from aspo_plugin.llamafactory import contract

    with pytest.raises(RuntimeError, match="reached CustomDPOTrainer, which would train plain DPO"):
        CustomDPOTrainer(finetuning_args=FinetuningArguments(stage="aspo"))
    monkeypatch.setattr(contract, "problems", {})
    monkeypatch.setattr(tuner, "run_dpo", run_dpo.__wrapped__)
    with pytest.raises(RuntimeError, match="would train plain DPO.*train.tuner: it does not call"):
        train()


def test_a_changed_host_keeps_its_plain_stages(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """An adjustment that does not find its place changes nothing, and is remembered with the place's name."""
    from types import ModuleType

    from aspo_plugin.llamafactory import contract, patches

    monkeypatch.setattr(contract, "problems", {})
    changed = ModuleType("llamafactory.train.dpo")
    changed.run_dpo = lambda arguments: arguments
    before = dict(vars(changed))
    patches.adjust(changed)
    assert vars(changed) == before
    assert "run_dpo takes no model_args" in contract.problems["llamafactory.train.dpo"]
    patches.adjust(ModuleType("llamafactory.hparams.finetuning_args"))
    assert "FinetuningArguments.__post_init__ does not exist" in capsys.readouterr().err


def test_an_adjustment_that_fails_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it relies on is there, and yet it raises: the host's module is left to its plain stages."""
    from types import ModuleType

    from aspo_plugin.llamafactory import contract, patches

    def fail(module: ModuleType) -> None:
        raise TypeError("read-only")

    monkeypatch.setattr(contract, "problems", {})
    monkeypatch.setitem(patches.ADJUSTMENTS, "v1.config.arg_parser", fail)
    patches.adjust(ModuleType("llamafactory.v1.config.arg_parser"))
    assert contract.problems == {"llamafactory.v1.config.arg_parser": "TypeError('read-only')"}


def test_a_run_that_fails_in_its_data_leaves_the_host_as_it_was() -> None:
    """The same process may train a plain stage next, as LLaMA Board's or a notebook's does."""
    from llamafactory.data import loader

    from aspo_plugin.llamafactory.contract import sentence_data

    class Sentences:
        align = preprocess = staticmethod(print)
        reading = staticmethod(lambda load: print)

    def steps() -> tuple[Any, ...]:
        return loader.align_dataset, loader._get_preprocessed_dataset, loader._load_single_dataset

    before = steps()
    with pytest.raises(OSError, match="broken"), sentence_data(Sentences):
        assert steps() == (print, print, print)
        raise OSError("broken")
    assert steps() == before
