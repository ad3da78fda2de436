"""For each architecture: sentences sit on the right tokens, and one-sentence ASPO is the host's DPO."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from aspo_plugin.method.sentence_sums import SHARED
from tests.support import backbones, data

from . import catalog, hosts

HOST = hosts.installed_host()
LLAMAFACTORY = pytest.mark.skipif(HOST != "llamafactory", reason="needs LLaMA-Factory")
AXOLOTL = pytest.mark.skipif(HOST != "axolotl", reason="needs Axolotl")

# Architecture -> LLaMA-Factory's template: those of the recipes, and four without a recipe.
TEMPLATES = {recipe.tiny: recipe.values["template"] for recipe in catalog.recipes_of("llamafactory")}
TEMPLATES |= {
    "paligemma": "paligemma", "mllama": "mllama", "idefics3": "smolvlm", "qwen3_vl_moe": "qwen3_vl_nothink"
}  # fmt: skip
# These put an empty thinking block first.
CASES = sorted(TEMPLATES.items()) + [("qwen3_vl", "qwen3_vl"), ("qwen3_vl", "qwen3_5")]
STEPS = 3


def check_sentences(tokenizer: Any, response: list[int], ids: list[int], row: dict[str, Any]) -> None:
    """`ids` (one per token of `response`) against the spans of `row`, through the tokenizer's own decoding.

    The tokens up to sentence k must hold its last character, and without their last token must not: so a
    sentence ends with the token that holds its end, and the next token is the next sentence's.
    """
    text = row["chosen"][0]["content"]
    spans = row["chosen_sentences"]
    assert len(ids) == len(response) and ids == sorted(ids)
    assert sorted(set(ids) - {SHARED}) == list(range(len(spans)))
    whole = tokenizer.decode(response)
    assert whole.index(text) >= len(tokenizer.decode(response[: ids.count(SHARED)]))
    start = whole.index(text)
    for sentence, span in enumerate(spans[:-1]):
        upto = [token for token, i in zip(response, ids, strict=True) if i <= sentence]
        end = start + span["end"]
        assert whole.startswith(text, start)
        assert len(tokenizer.decode(upto)) >= end > len(tokenizer.decode(upto[:-1])), (sentence, text)
    assert ids[-1] == len(spans) - 1  # what the template puts after the text belongs to the last sentence


def encoded_rows(values: dict[str, Any]) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Tokenizer, processor and the rows that a `stage: aspo` run of LLaMA-Factory would train on."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    from aspo_plugin.llamafactory.arguments import settings_of
    from aspo_plugin.llamafactory.contract import sentence_data
    from aspo_plugin.llamafactory.datasets import SentenceData
    from aspo_plugin.training.refused_rows import RefusedRows

    model, arguments, training, method, _ = get_train_args({**values, "stage": "aspo"})
    module = load_tokenizer(model)
    template = get_template_and_fix_tokenizer(module["tokenizer"], arguments)
    refused_rows = RefusedRows(training.output_dir)
    with sentence_data(SentenceData(settings_of(method), refused_rows, model.cache_dir)):
        rows = get_dataset(template, model, arguments, training, stage="rm", **module)["train_dataset"]
    return module["tokenizer"], module["processor"], list(rows)


def image_tokens(config: Any) -> set[int]:
    names = ("image_token_id", "image_token_index")
    return {value for name in names if (value := getattr(config, name, None)) is not None}


def compare_in_child(model: Path, template: str, folder: Path) -> None:
    """Sentence ids on several sentences; then DPO and ASPO on single ones, their logs left in `folder`."""
    from transformers import AutoConfig

    values: dict[str, Any] = {
        "do_train": True,
        "model_name_or_path": str(model),
        "template": template,
        "finetuning_type": "lora",
        "lora_rank": 4,
        "dataset": "train",
        "cutoff_len": 2048,
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "cache_dir": str(folder / "cache"),
    }
    many = data.rows(6, 5, sentences=(3, 5))
    data_folder = catalog.write_dataset(folder / "many", 6, seed=5, sentences=(3, 5))
    several = {**values, "dataset_dir": str(data_folder), "output_dir": str(folder / "none")}
    tokenizer, _, rows = encoded_rows(several)
    assert len(rows) == len(many)
    marks = image_tokens(AutoConfig.from_pretrained(model))
    for encoded in rows:
        ids, sentences = encoded["chosen_input_ids"], encoded["chosen_sentence_ids"]
        prompt = sentences.count(-1)
        assert all(i == -1 for i in sentences[:prompt]) and encoded["chosen_labels"][prompt] == ids[prompt]
        # Images are expanded, all of them in the prompt. (Cross-attention models have one token each.)
        images = sum(token in marks for token in ids[:prompt])
        assert images >= (1 if "mllama" in str(model) else 4) and not marks & set(ids[prompt:])
        decoded = tokenizer.decode(ids[prompt:])
        row = next(row for row in many if row["chosen"][0]["content"] in decoded)
        check_sentences(tokenizer, ids[prompt:], sentences[prompt:], row)
    from llamafactory.train.tuner import run_exp

    single = {**values, "dataset_dir": str(catalog.write_dataset(folder / "one", 8, seed=6, sentences=1))}
    for stage in ("dpo", "aspo"):
        run_exp(args={**single, "stage": stage, "output_dir": str(folder / stage)})


@LLAMAFACTORY
@pytest.mark.parametrize(("architecture", "template"), CASES, ids=lambda value: value)
def test_sentences_and_dpo_in_llamafactory(
    architecture: str, template: str, workspace: Path, tmp_path: Path
) -> None:
    model = workspace / "float32" / architecture

    def child() -> None:
        backbones.build(architecture, model)
        compare_in_child(model, template, tmp_path)

    hosts.forked(child, tmp_path / "log")
    dpo, aspo = (
        [entry for entry in hosts.history(tmp_path / stage) if "loss" in entry] for stage in ("dpo", "aspo")
    )
    assert len(dpo) == len(aspo) == STEPS
    for ours, theirs in zip(aspo, dpo, strict=True):
        # Sums of log-probs are rounded: float32 on sums of a few hundred.
        rounding = 1e-7 * (abs(theirs["logps/chosen"]) + abs(theirs["logps/rejected"]))
        for key in ("loss", "rewards/chosen", "rewards/rejected"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=rounding), key
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-4)
        assert ours["logps/chosen"] == pytest.approx(theirs["logps/chosen"], rel=1e-5)
    assert abs(dpo[-1]["loss"] - dpo[0]["loss"]) > 1e-5


def full_logits_dpo(models: tuple[Any, Any], batch: dict[str, Any], beta: float) -> Any:
    """Plain DPO of policy and reference from all their logits, on a batch with both copies of the images."""
    import torch

    from aspo_plugin.logprobs.pair_batch import images_twice

    inputs = {key: value for key, value in images_twice(batch).items() if key not in ASPO_KEYS}
    sums = []
    for model in models:
        logps = model(**inputs).logits[:, :-1].float().log_softmax(-1)
        of_tokens = logps.gather(2, inputs["input_ids"][:, 1:, None]).squeeze(2)
        sums.append((of_tokens * batch["completion_mask"][:, 1:]).sum(1))
    chosen, rejected = (sums[0] - sums[1].detach()).chunk(2)
    return -torch.nn.functional.logsigmoid(beta * (chosen - rejected)).mean()


ASPO_KEYS = ("completion_mask", "sentence_ids", "similarity", "aspo_reference_keys")


@AXOLOTL
@pytest.mark.parametrize("architecture", [*backbones.VISION_LANGUAGE, "qwen3_vl thinking"])
def test_sentences_and_dpo_in_axolotl(architecture: str, tmp_path: Path) -> None:
    """The rows, batches and loss that Axolotl trains on (its trainer is this one)."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    from aspo_plugin.trl import AspoConfig, AspoTrainer
    from aspo_plugin.trl.rows import LengthLimit, RowPreparer
    from tests.support.backbones import qwen, templates
    from tests.trl.conftest import as_dataset

    architecture, _, thinking = architecture.partition(" ")
    folder = backbones.build(architecture, tmp_path / architecture)
    processor = AutoProcessor.from_pretrained(folder)
    if architecture == "instructblip":  # its processor brings no template; the recipe has one
        recipe = next(r for r in catalog.recipes_of("axolotl") if r.tiny == architecture)
        processor.chat_template = recipe.values["chat_template_jinja"]
    if thinking:
        processor.chat_template = templates.chatml(qwen.VISION_MARK, empty_thinking=True)
    marks = image_tokens(AutoConfig.from_pretrained(folder))
    prepare = RowPreparer(processor, LengthLimit(2048, "raise", "sequence_len"))
    for item in data.rows(6, 5, sentences=(3, 5)):
        made = prepare(item, item["images"])
        assert not marks & set(made["chosen_ids"])
        check_sentences(processor.tokenizer, made["chosen_ids"], made["sentence_ids"], item)
        opening = processor.tokenizer.decode(made["chosen_ids"]).split(item["chosen"][0]["content"])[0]
        assert ("<think>" in opening) == bool(thinking)
        assert not thinking or made["sentence_ids"].count(SHARED) > 3

    policy, reference = (
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    settings = AspoConfig(
        str(tmp_path / "out"), bf16=False, use_cpu=True, report_to=[], gradient_checkpointing=False
    )
    rows = as_dataset(data.rows(2, 6, sentences=1))
    trainer = AspoTrainer(policy, reference, args=settings, train_dataset=rows, processing_class=processor)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(2)])
    ids = batch["input_ids"][:2]
    assert all(sum((row == mark).sum() for mark in marks) >= 1 for row in ids)
    loss = trainer.compute_loss(policy, dict(batch))
    expected = full_logits_dpo((policy, reference), batch, settings.beta)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert abs(float(expected) - math.log(2)) > 1e-4
    wanted = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for ours, plain in zip(
        torch.autograd.grad(loss, wanted, allow_unused=True),
        torch.autograd.grad(expected, wanted, allow_unused=True),
        strict=True,
    ):
        if plain is not None and plain.abs().max() > 0:
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()) + 1e-8)


def test_the_check_of_sentences_notices_a_shift() -> None:
    """The check itself: ids shifted by one token do not pass."""
    if HOST is None:
        pytest.skip("no transformers here")
    from tests.support.tokenizers import tokenizer

    item = data.rows(1, 5, sentences=4)[0]
    bytelevel = tokenizer("byte_level")
    from aspo_plugin.alignment.sentence_ids import sentence_ids

    text = item["chosen"][0]["content"]
    tokens = bytelevel(text, add_special_tokens=False)["input_ids"]
    spans = [(span["start"], span["end"]) for span in item["chosen_sentences"]]
    right = sentence_ids(bytelevel, tokens, text, spans)
    check_sentences(bytelevel, tokens, right, item)
    for wrong in ([*right[1:], right[-1]], [right[0], *right[:-1]]):
        with pytest.raises(AssertionError):
            check_sentences(bytelevel, tokens, wrong, item)
