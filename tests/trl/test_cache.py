"""A run with the reference cache is the run without it, and loads no reference model."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText

from aspo_plugin.logprobs.pair_batch import IMAGES_ONCE
from aspo_plugin.reference_cache.store import ReferenceCacheError
from aspo_plugin.training.reference import Live
from aspo_plugin.trl import reference_cache
from aspo_plugin.trl import trainer as module
from aspo_plugin.trl.arguments import AspoConfig
from tests.support import data

from .conftest import as_dataset


def run(model, tmp_path, name, *, lora=False, rows=None, evaluated=None, ref_model=None, **options):
    args = AspoConfig(
        str(tmp_path / name), use_cpu=True, per_device_train_batch_size=2, logging_steps=1,
        learning_rate=1e-3, report_to="none", save_strategy="no", bf16=False,
        **{"max_steps": 5, **options},
    )  # fmt: skip
    trainer = module.AspoTrainer(
        str(model),
        ref_model=ref_model,
        args=args,
        train_dataset=as_dataset(rows or data.rows(8, 1, sentences=(3, 5))),
        eval_dataset=evaluated,
        peft_config=LoraConfig(target_modules=["q_proj"], r=4) if lora else None,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return trainer, logs


def assert_same(found, expected):
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        for name in ("loss", "rewards/chosen", "rewards/margins", "logps/rejected"):
            # A cache is filled in larger batches: the last place of a float32 sum of hundreds may differ.
            assert got[name] == pytest.approx(want[name], abs=2e-5, rel=2e-7), name


@pytest.mark.parametrize("lora", [True, False])
def test_a_cached_run_is_the_live_run(model, tmp_path, lora):
    _, live = run(model("llava"), tmp_path, "live", lora=lora)
    folder = str(tmp_path / "reference")
    trainer, first = run(model("llava"), tmp_path, "first", lora=lora, aspo_reference_cache=folder)
    assert trainer.ref_model is None
    forwards = []
    again, second = run(model("llava"), tmp_path, "second", lora=lora, aspo_reference_cache=folder)
    assert_same(first, live)
    assert_same(second, live)
    # The reference costs nothing in a step: a forward each for the policy, and no other.
    batch = again._prepare_inputs(next(iter(again.get_train_dataloader())))
    again.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    again._compute_loss(again.model, batch)
    assert len(forwards) == 1
    assert again._aspo.read.pairs["plain"] == 0 and again._aspo.read.pairs["shared"] > 0


def test_rows_that_an_epoch_drops_are_in_the_cache(model, tmp_path):
    """And an evaluation set that is called like the training set does not take its place."""
    trainer, logs = run(
        model("llava"), tmp_path, "out", rows=data.rows(5, 1, sentences=(3, 5)), max_steps=6, eval_steps=6,
        eval_strategy="steps", evaluated={"train": as_dataset(data.rows(2, 9, sentences=(2, 4)))},
        per_device_eval_batch_size=1, dataloader_drop_last=True,
        aspo_reference_cache=str(tmp_path / "reference"),
    )  # fmt: skip
    assert len(logs) == 6 and trainer.args.dataloader_drop_last
    assert any("eval_train_loss" in entry for entry in trainer.state.log_history)
    assert len(trainer._aspo.reference.cache) == 2 * (5 + 2)
    trainer.train()  # its policy is no reference any more, and the cache still is


def test_the_evaluation_set_is_in_the_cache_for_later(model, tmp_path):
    """As a script evaluates behind `train()`, with no strategy of evaluation, and no reference left."""
    more = {"evaluated": as_dataset(data.rows(3, 9, sentences=(2, 4))), "max_steps": 2}
    trainer, _ = run(model("llava"), tmp_path, "out", aspo_reference_cache=str(tmp_path / "cache"), **more)
    live, _ = run(model("llava"), tmp_path, "live", **more)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(live.evaluate()["eval_loss"], abs=2e-5)


def test_another_evaluation_set(model, tmp_path):
    """An adapter's reference is there for it; that of full training is gone, and the run says so."""
    other = as_dataset(data.rows(3, 11, sentences=(2, 4)))
    cached, live = (
        run(model("llava"), tmp_path, name, lora=True, aspo_reference_cache=folder, max_steps=2)[0]
        for name, folder in (("out", str(tmp_path / "cache")), ("live", None))
    )
    found, expected = cached.evaluate(other), live.evaluate(other)
    for name in ("eval_loss", "eval_rewards/margins"):
        assert found[name] == pytest.approx(expected[name], abs=2e-5), name
    full, _ = run(
        model("llava"), tmp_path, "full", aspo_reference_cache=str(tmp_path / "cache2"), max_steps=2
    )
    with pytest.raises(ReferenceCacheError, match="another evaluation set"):
        full.evaluate(other)


@pytest.mark.parametrize("memory", [True, False])
def test_the_cache_is_filled_with_larger_batches(model, tmp_path, monkeypatch, memory):
    """And with training's own where there is no memory for them."""
    batches, live = [], Live.logps

    def counted(self, policy, inputs, mask, *keys, **options):
        pairs = len(mask) // 2
        batches.append(pairs)
        if pairs > 2 and not memory:
            raise torch.OutOfMemoryError
        return live(self, policy, inputs, mask, *keys, **options)

    monkeypatch.setattr(Live, "logps", counted)
    trainer, logs = run(
        model("llava"), tmp_path, "out", lora=True, rows=data.rows(20, 1, sentences=(2, 3)), max_steps=2,
        aspo_reference_cache=str(tmp_path / "reference"), dataloader_persistent_workers=True,
        dataloader_num_workers=1,
    )  # fmt: skip
    assert batches == ([16, 4] if memory else [16, *[2] * 10])
    assert len(trainer._aspo.reference.cache) == 40 and len(logs) == 2
    assert trainer._train_batch_size == 2 and trainer.args.dataloader_persistent_workers


def test_images_go_through_processor_and_model_once(model, processing, tmp_path, monkeypatch):
    counts = []
    processor = type(processing("llava").image_processor)
    right = processor.preprocess
    monkeypatch.setattr(
        processor,
        "preprocess",
        lambda self, images, *a, **k: counts.append(images) or right(self, images, *a, **k),
    )
    trainer, _ = run(model("llava"), tmp_path, "out", max_steps=1)
    counts.clear()
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch[IMAGES_ONCE] and len(batch["pixel_values"]) == 2 == len(batch["input_ids"]) // 2
    for images in counts:  # the loader is a batch ahead
        assert len([image for row in images for image in (row if isinstance(row, list) else [row])]) == 2


def test_a_cache_of_another_model_is_refused(model, tmp_path):
    folder = str(tmp_path / "reference")
    trainer, _ = run(model("llava"), tmp_path, "out", aspo_reference_cache=folder, max_steps=1)
    other = tmp_path / "other"
    with torch.no_grad():
        trainer.model.lm_head.weight += 1
    trainer.save_model(str(other))
    with pytest.raises(RuntimeError, match="was made with something else: model was"):
        run(other, tmp_path, "again", aspo_reference_cache=folder, max_steps=1)


@pytest.fixture(scope="module")
def fingerprint(model):
    """Of the reference of a trainer that was never made, with some of its parts changed."""
    loaded = AutoModelForImageTextToText.from_pretrained(model("llava"))

    def of(changed=(), settings=(), images=(), adapters=None, weights=0.0, ref_model=None):
        policy = copy.deepcopy(loaded)
        policy.config.update(dict(changed))
        peft = adapters is not None
        if peft:
            policy = get_peft_model(policy, LoraConfig(target_modules=["q_proj"], r=2))
            for name in adapters:
                policy.add_adapter(name, LoraConfig(target_modules=["q_proj"], r=2))
            with torch.no_grad():
                for name, parameter in policy.named_parameters():
                    if "lora_" in name:
                        parameter.fill_(weights if ".ref." in name else 7.0 * weights)
        processor = SimpleNamespace(image_processor={"size": 56, **dict(images)})
        trainer = SimpleNamespace(
            model=policy,
            ref_model=ref_model,
            args=SimpleNamespace(**{"bf16": False, "fp16": False, **dict(settings)}),
            accelerator=SimpleNamespace(unwrap_model=lambda model: model),
            processing_class=processor,
        )
        return reference_cache.fingerprint(trainer)

    return of


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"changed": {"dtype": torch.bfloat16}}, {"dtype"}),
        ({"settings": {"bf16": True}}, {"dtype"}),
        ({"settings": {"fp16": True}}, {"dtype"}),
        ({"changed": {"quantization_config": {"bits": 4}}}, {"quantisation"}),
        ({"changed": {"vision_feature_layer": -1}}, {"config"}),
        ({"images": {"size": 28}}, {"images"}),
        ({"changed": {"use_cache": False, "transformers_version": "9"}}, set()),
        # A new adapter is off for the reference; the copy of one that is trained further is the reference.
        ({"adapters": []}, set()),
        ({"adapters": ["ref"], "weights": 1.0}, {"adapter"}),
    ],
    ids=str,
)
def test_all_that_the_reference_depends_on_is_in_its_fingerprint(changes, differs, fingerprint):
    before, after = fingerprint(), fingerprint(**changes)
    assert {key for key in before if before[key] != after[key]} == differs


def test_an_adapter_that_was_merged_before_is_in_the_fingerprint(model, fingerprint):
    """The config of such a model still names the folder of the base, whose log-probs a cache may hold."""
    merged = get_peft_model(
        AutoModelForImageTextToText.from_pretrained(model("llava")),
        LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False),
    ).merge_and_unload()
    before, after = fingerprint(), fingerprint(ref_model=merged)
    assert {key for key in before if before[key] != after[key]} == {"weights in memory"}


def test_the_weights_of_the_reference_are_in_its_fingerprint(model, fingerprint, tmp_path):
    copies = [fingerprint(adapters=["ref"], weights=weights)["adapter"] for weights in (1.0, 1.0, 2.0)]
    assert copies[0] == copies[1] != copies[2]
    other = AutoModelForImageTextToText.from_pretrained(model("llava"))
    with torch.no_grad():
        other.lm_head.weight += 1
    other.save_pretrained(tmp_path)
    other = AutoModelForImageTextToText.from_pretrained(tmp_path)
    before, after = fingerprint(), fingerprint(ref_model=other)
    assert {key for key in before if before[key] != after[key]} == {"model", "weights in memory"}
    # A model of its own counts alone, whatever adapter the policy has.
    assert fingerprint(ref_model=other, adapters=["ref"], weights=1.0) == after
