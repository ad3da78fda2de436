"""Batches for every architecture: the same tokens and pixels as TRL's collator, and rows without images."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from PIL import Image

from aspo_plugin.logprobs.pair_batch import images_twice
from aspo_plugin.reference_cache.keys import KEYS
from aspo_plugin.trl.collator import AspoVisionCollator
from aspo_plugin.trl.datasets import prepare_dataset
from tests.support import backbones, data

from .conftest import as_dataset

NAMES = backbones.VISION_LANGUAGE


def batch_of(processor: Any, rows: list[dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    prepared = prepare_dataset(as_dataset(rows), processor, alpha=0.5)
    return prepared, collate(processor, [prepared[i] for i in range(len(prepared))])


def collate(processor: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch whose rejected rows have their own copy of the images."""
    return images_twice(AspoVisionCollator(processor)(rows))


@pytest.mark.parametrize("name", NAMES)
def test_tokens_and_pixels_are_those_of_the_processor(name: str, processing: Any) -> None:
    """Each row alone: the processor's prompt, the response's tokens, the pixels of the decoded file."""
    processor = processing(name)
    rows = data.rows(3, sentences=(2, 3))
    prepared, batch = batch_of(processor, rows)
    length = batch["input_ids"].size(1)
    decoded = as_dataset(rows)["images"]
    for index, row in enumerate(prepared):
        expected = processor(
            images=[decoded[index]], text=[row["prompt"]], return_tensors="pt", add_special_tokens=False
        )
        prompt = expected["input_ids"][0]
        for place, key in ((index, "chosen_ids"), (index + 3, "rejected_ids")):
            whole = torch.cat([prompt, torch.tensor(row[key])])
            mask = batch["attention_mask"][place].bool()
            assert torch.equal(batch["input_ids"][place][mask], whole)
            assert torch.equal(mask.long(), (torch.arange(length) < len(whole)).long())
            trained = batch["completion_mask"][place].bool()
            assert batch["input_ids"][place][trained].tolist() == row[key]
        ids = batch["sentence_ids"][index]
        assert ids[ids != -1].tolist() == row["sentence_ids"]
        assert torch.equal(ids != -1, batch["completion_mask"][index].bool())
        known = batch["similarity"][index][: len(row["similarity"])]
        assert known.tolist() == pytest.approx(row["similarity"])
        assert batch["similarity"][index][len(row["similarity"]) :].isnan().all()
        assert_pixels(batch, expected, index)


def assert_pixels(batch: dict[str, Any], expected: Any, index: int) -> None:
    """The images are 72 x 56, one a row, so row `index` has an equal share of every image tensor."""
    alone = expected["pixel_values"]
    share = batch["pixel_values"].size(0) // 6
    for place in (index, index + 3):
        part = batch["pixel_values"][place * share : (place + 1) * share]
        assert torch.equal(part.reshape(-1)[: alone.numel()], alone.reshape(-1))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_goes_through_the_model_and_pairs_do_not_disturb_each_other(
    name: str, processing: Any, model: Any
) -> None:
    """Log-probs of a pair alone equal those in a batch with a text-only pair and a pair of other sizes."""
    from transformers import AutoModelForImageTextToText

    from aspo_plugin.logprobs.response import ResponseLogProbs

    processor = processing(name)
    network = AutoModelForImageTextToText.from_pretrained(model(name), dtype=torch.float32).eval()
    rows = [*data.rows(1, 1), *data.rows(1, 2, text_only=True), *data.rows(1, 3, size=(56, 90))]
    if name == "instructblip":  # its forward needs an image; such rows are left out
        del rows[1]
    if name == "mllama":
        with pytest.raises(ValueError, match="text-only pair beside them"):
            batch_of(processor, rows)
        del rows[1]
    prepared, batch = batch_of(processor, rows)

    def logps(batch: dict[str, Any]) -> torch.Tensor:
        mask = batch["completion_mask"].bool()
        inputs = {
            k: v for k, v in batch.items() if k not in ("completion_mask", "sentence_ids", "similarity")
        }
        with torch.no_grad():
            values = ResponseLogProbs(shared_prefix="false")(network, inputs, mask)
        return [row[chosen] for row, chosen in zip(values, mask, strict=True)]

    together = logps(batch)
    for index in range(len(rows)):
        alone = logps(collate(processor, [prepared[index]]))
        for place, values in ((index, alone[0]), (index + len(rows), alone[1])):
            torch.testing.assert_close(together[place], values, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "internvl"])
def test_trls_own_collator_gives_the_same_batch(name: str, processing: Any) -> None:
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    processor = processing(name)
    rows = data.rows(2, sentences=2)
    _, ours = batch_of(processor, rows)
    decoded = as_dataset(rows)
    theirs = DataCollatorForVisionPreference(processor)(
        [{k: decoded[i][k] for k in ("images", "prompt", "chosen", "rejected")} for i in range(2)]
    )
    same = ["pixel_values", "attention_mask", "completion_mask", "input_ids"]
    if name in ("llava", "gemma3"):  # these tokenizers put a space before a response tokenized alone
        same = same[:1]
    for key in same:
        assert torch.equal(ours[key], theirs[key]), key


def test_responses_of_a_mllama_see_the_image(processing: Any) -> None:
    """TRL's own collator leaves them without: the mask of the prompt's end goes on over the response."""
    _, batch = batch_of(processing("mllama"), data.rows(2, sentences=2))
    mask, trained = batch["cross_attention_mask"], batch["completion_mask"].bool()
    for row, response in zip(mask, trained, strict=True):
        last = row[int(response.long().argmax()) - 1]
        assert last.any() and all(torch.equal(position, last) for position in row[response])


def test_pictures_are_part_of_the_key_of_cached_log_probs(processing: Any) -> None:
    """The same texts about another picture have other log-probs."""
    processor = processing("llava")
    prepared = prepare_dataset(as_dataset(data.rows(2)), processor, alpha=0.5)
    collator = AspoVisionCollator(processor, reference_keys=True)
    one, other = prepared[0], {**prepared[0], "images": prepared[1]["images"]}
    assert one["images"] != other["images"]
    assert len({*collator([one])[KEYS], *collator([other])[KEYS]}) == 4


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_a_photograph_stored_sideways_is_trained_upright(name: str, processing: Any) -> None:
    """Pixels and image tokens are the upright picture's, which is scored (`test_scorer.py`) and which
    LLaMA-Factory trains on too (`tests/llamafactory/test_data.py`). Axolotl's collator is this one."""
    processor = processing(name)
    upright = Image.effect_noise((56, 84), 70).convert("RGB")
    note = Image.Exif()
    note[0x0112] = 6  # how to turn it, as telephones write it
    files = []
    for picture, exif in ((upright, None), (upright.transpose(Image.Transpose.ROTATE_90), note)):
        stream = io.BytesIO()
        picture.save(stream, "PNG", exif=exif)
        files.append({"bytes": stream.getvalue(), "path": None})
    [row] = data.rows(1, sentences=2)
    straight, turned = (batch_of(processor, [{**row, "images": [file]}])[1] for file in files)
    assert straight.keys() == turned.keys() and "pixel_values" in straight
    for key in ("pixel_values", "input_ids"):
        assert torch.equal(straight[key], turned[key]), key


def test_missing_similarities_are_nan(processing: Any) -> None:
    rows = data.rows(2, sentences=3)
    rows[0]["chosen_similarity"] = None
    rows[1]["chosen_similarity"][1] = None
    _, batch = batch_of(processing("llava"), rows)
    assert batch["similarity"].isnan().tolist() == [[True] * 3, [False, True, False]]
    assert not math.isnan(batch["similarity"][1, 0])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
def test_text_only_batches_have_what_the_processor_gives_for_text(name: str, processing: Any) -> None:
    """Nothing of images, and the kinds of tokens, without which some models do not train."""
    _, batch = batch_of(processing(name), data.rows(2, text_only=True))
    assert "pixel_values" not in batch
    given = processing(name)(text=["some text"], return_tensors="pt")
    kinds = set(given) - {"input_ids", "attention_mask"}
    assert kinds == set(batch) - set(batch_of(processing("llava"), data.rows(2, text_only=True))[1])
    for kind in kinds:
        assert batch[kind].shape == batch["input_ids"].shape and not batch[kind].any()


@pytest.mark.parametrize("name", NAMES)
def test_a_placeholder_image_runs_the_vision_tower_and_changes_nothing(
    name: str, processing: Any, model: Any
) -> None:
    """A text-only batch: the same log-probs and gradients, and every weight of the tower takes part."""
    from transformers import AutoModelForImageTextToText

    from aspo_plugin.logprobs.response import ResponseLogProbs

    processor = processing(name)
    collator = AspoVisionCollator(processor, reference_keys=True)
    if name == "mllama":
        with pytest.raises(ValueError, match="Mllama.*several processes cannot do at the same time"):
            collator.use_placeholder()
        return
    if name == "instructblip":  # has no text-only batches
        return
    network = AutoModelForImageTextToText.from_pretrained(model(name), dtype=torch.float32).eval()
    prepared = prepare_dataset(as_dataset(data.rows(2, 2, text_only=True)), processor, alpha=0.5)
    rows = [prepared[0], prepared[1]]

    def run(batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        mask = batch["completion_mask"].bool()
        ours = ("completion_mask", "sentence_ids", "similarity", KEYS)
        inputs = {key: value for key, value in batch.items() if key not in ours}
        network.zero_grad()
        values = ResponseLogProbs()(network, inputs, mask)
        values.sum().backward()
        grads = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
        assert torch.equal(batch["sentence_ids"] != -1, mask[:2])
        return values.detach()[mask], grads

    plain = collator(rows)
    expected, grads = run(plain)
    used = images_in(network, collate(processor, [with_images(processor)]))
    collator.use_placeholder()
    batch = collator(rows)
    found, held = run(batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-6)
    assert batch[KEYS] == plain[KEYS]
    assert held.keys() == used | grads.keys() and used - grads.keys()
    for parameter, gradient in held.items():
        wanted = grads.get(parameter, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def with_images(processor: Any) -> dict[str, Any]:
    return prepare_dataset(as_dataset(data.rows(1, 1)), processor, alpha=0.5)[0]


def images_in(network: Any, batch: dict[str, Any]) -> set[str]:
    """The weights that get a gradient from a batch with images."""
    from aspo_plugin.logprobs.response import ResponseLogProbs

    mask = batch["completion_mask"].bool()
    ours = ("completion_mask", "sentence_ids", "similarity")
    inputs = {key: value for key, value in batch.items() if key not in ours}
    network.zero_grad()
    ResponseLogProbs(shared_prefix="false")(network, inputs, mask).sum().backward()
    return {name for name, parameter in network.named_parameters() if parameter.grad is not None}
