"""Chat templates as models publish them: their options, their tools, and what an answer ends with."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.trl import AspoConfig, AspoTrainer
from aspo_plugin.trl.datasets import end_of_turn_missing, prepare_dataset
from tests.recipes import catalog
from tests.support import backbones, data
from tests.support.backbones.templates import vicuna

from .conftest import as_dataset
from .test_trainer import COMMON, NUMBERS, log_of

# Writes what it is given, as templates of models that call tools do.
TOLD = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and enable_thinking is defined and enable_thinking %}<think>{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking %}<think>{% endif %}{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
COLUMNS = {
    "options": {"chat_template_kwargs": [{"enable_thinking": True}, {"enable_thinking": False}] * 2},
    "tools": {"tools": [json.dumps([TOOL]), "[]"] * 2},
}


@pytest.mark.parametrize(
    ("name", "column"), [("text", "options"), ("text", "tools"), ("qwen2_vl", "options")]
)
def test_options_and_tools_of_a_row_are_those_of_trls_dpo(
    name: str, column: str, model: Any, processing: Any, tmp_path: Path
) -> None:
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    rows = as_dataset(data.rows(4, sentences=1, text_only=name == "text"))
    keep = ["prompt", "chosen", "rejected"] + ["images"] * (name != "text")
    pairs = rows.select_columns(keep)
    logs = []
    for given in (pairs, pairs.add_column(*_column(column))):
        for kind, config in ((DPOTrainer, DPOConfig), (AspoTrainer, AspoConfig)):
            processor = AutoProcessor.from_pretrained(model(name))
            processor.chat_template = TOLD
            options = {**COMMON, "max_steps": 2}
            options |= {"aspo_alpha": 0.0} if kind is AspoTrainer else {}
            trainer = kind(
                str(model(name)), args=config(str(tmp_path / kind.__name__), **options), train_dataset=given,
                processing_class=processor,
            )  # fmt: skip
            logs.append(log_of(trainer))
    without, _, dpo, aspo = logs
    assert dpo[0]["logps/chosen"] != without[0]["logps/chosen"]  # the column reaches the template
    for ours, theirs in zip(aspo, dpo, strict=True):
        for number in NUMBERS:
            assert ours[number] == pytest.approx(theirs[number], rel=5e-5, abs=2e-5), number


def _column(column: str) -> tuple[str, list[Any]]:
    ((name, values),) = COLUMNS[column].items()
    return name, values


def test_tools_reach_the_template_of_pairs_with_images(processing: Any) -> None:
    """TRL's own collator drops them."""
    processor = processing("qwen2_vl")
    before, processor.chat_template = processor.chat_template, TOLD
    try:
        rows = as_dataset(data.rows(2)).add_column("tools", [json.dumps([TOOL]), "[]"])
        prepared = prepare_dataset(rows, processor, alpha=0.5)
    finally:
        processor.chat_template = before
    assert ["look" in row["prompt"] for row in prepared] == [True, False]


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_answers_without_an_end_of_turn_are_told(
    name: str, model: Any, processing: Any, tmp_path: Path, caplog: Any
) -> None:
    """Both publish a template that ends an answer with a blank; the remedy is a template that does not."""
    from transformers import AutoProcessor

    told = []
    for template in (None, vicuna(), _recipe_template("llava-1.5-7b")):
        processor = AutoProcessor.from_pretrained(model(name))
        if template:
            processor.chat_template = template
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainer = AspoTrainer(
                str(model(name)), args=AspoConfig(str(tmp_path), **COMMON),
                train_dataset=as_dataset(data.rows(4)), processing_class=processor,
            )  # fmt: skip
        told.append([text for text in caplog.messages if "end-of-turn token" in text])
        ends = processor.tokenizer.eos_token_id
        assert all((row["chosen_ids"][-1] == ends) == bool(template) for row in trainer.train_dataset)
    assert [len(texts) for texts in told] == [1, 0, 0]
    assert "processing_class.chat_template" in told[0][0]


def _recipe_template(name: str) -> str:
    recipe = next(r for r in catalog.recipes_of("axolotl") if r.path.stem == name)
    return recipe.values["chat_template_jinja"]


@pytest.mark.parametrize("recipe", catalog.recipes_of("axolotl"), ids=lambda recipe: recipe.path.stem)
def test_every_recipe_trains_an_end_of_turn(recipe: Any, model: Any) -> None:
    """With the template it sets, else the one that the model publishes."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model(recipe.tiny))
    if recipe.values.get("chat_template_jinja"):
        processor.chat_template = recipe.values["chat_template_jinja"]
    prepared = prepare_dataset(as_dataset(data.rows(3)), processor, alpha=0.5)
    assert not end_of_turn_missing(prepared, processor)


@pytest.mark.parametrize("name", [*backbones.VISION_LANGUAGE, "text"])
def test_white_space_and_turns_behind_an_answer_are_known(name: str, processing: Any) -> None:
    rows = as_dataset(data.rows(2, text_only=name == "text"))
    prepared = prepare_dataset(rows, processing(name), alpha=0)
    assert bool(end_of_turn_missing(prepared, processing(name))) == (name in ("llava", "llava_next"))


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_2", "olora", "loftq", "corda"])
@pytest.mark.parametrize("given", [False, True], ids=["config", "adapter"])
def test_an_adapter_that_rewrites_its_base_is_refused(
    init: str, given: bool, model: Any, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    config = LoraConfig(r=4, target_modules=["q_proj"])
    policy: Any = str(model("llava"))
    if given:
        policy = get_peft_model(AutoModelForImageTextToText.from_pretrained(policy), config)
    config.init_lora_weights = init  # the refusal comes before a weight is touched
    with pytest.raises(ValueError, match=f"init_lora_weights is '{init}'.*another model"):
        AspoTrainer(
            policy, args=AspoConfig(str(tmp_path), **COMMON), train_dataset=as_dataset(data.rows(2)),
            peft_config=None if given else config,
        )  # fmt: skip


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "eva", "mica"])
def test_other_adapters_start_from_their_reference(init: Any, model: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    peft = LoraConfig(r=4, target_modules=r".*language_model.*q_proj", init_lora_weights=init)
    first = _first_step(model, tmp_path, peft)
    assert abs(first["rewards/margins"]) < 1e-6 and first["loss"] == pytest.approx(0.6931, abs=1e-4)


def _first_step(model: Any, folder: Path, peft: Any) -> dict[str, Any]:
    args = AspoConfig(str(folder), **{**COMMON, "max_steps": 1})
    trainer = AspoTrainer(
        str(model("llava")), args=args, train_dataset=as_dataset(data.rows(2)), peft_config=peft
    )
    return log_of(trainer)[0]
