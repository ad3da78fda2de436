"""The first batch is compared with the plain path: faults stop the run, rounding does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from aspo_plugin.logprobs import pair_batch as batches
from aspo_plugin.logprobs import pair_layout, response
from aspo_plugin.logprobs import self_check as checks
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.logprobs.self_check import SelfCheckError
from benchmarks import self_check as bounds
from tests.core.test_shared_prefix import language_model, token_batch
from tests.support.pairs import pair_batch


def rejected_sees_chosen(monkeypatch):
    right = batches.attention_masks

    def wrong(layout, *args):
        segment = torch.where(layout.segment == pair_layout.REJECTED, pair_layout.CHOSEN, layout.segment)
        return right(dataclasses.replace(layout, segment=segment), *args)

    monkeypatch.setattr(batches, "attention_masks", wrong)


def positions_go_on_over_the_chosen_response(monkeypatch):
    def wrong(model, inputs, host, made, layout, architecture):
        return torch.arange(layout.segment.shape[1]).expand_as(layout.segment)

    monkeypatch.setattr(batches, "_positions", wrong)


def multimodal_positions_lost(monkeypatch):
    monkeypatch.setattr(batches, "_multimodal_positions", lambda model, host: None)


def rejected_predicted_by_the_chosen_end(monkeypatch):
    right = batches.plan

    def wrong(*args, **kwargs):
        made = right(*args, **kwargs)
        flat, size = made.segment.ravel(), made.segment.shape[1]
        width = token_batch()[0]["input_ids"].shape[1]
        for n, place in enumerate(made.place):
            first = n == 0 or made.place[n - 1] != place - 1
            if place // width >= len(made.segment) and first:
                row = made.predictor[n] // size
                start = (flat[row * size : (row + 1) * size] == pair_layout.REJECTED).argmax()
                made.predictor[n] = row * size + start - 1
        return made

    monkeypatch.setattr(batches, "plan", wrong)


@pytest.mark.parametrize(
    "fault",
    [
        rejected_sees_chosen,
        positions_go_on_over_the_chosen_response,
        rejected_predicted_by_the_chosen_end,
    ],
)
def test_a_fault_stops_the_run(monkeypatch, fault):
    model = language_model("Llama")
    inputs, wanted = token_batch()
    fault(monkeypatch)
    with pytest.raises(SelfCheckError, match="Set shared_prefix to false"):
        ResponseLogProbs()(model, inputs, wanted)
    # Nothing else would have said so.
    ResponseLogProbs(self_check=False)(model, inputs, wanted)
    ResponseLogProbs(shared_prefix="false")(model, inputs, wanted)


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_lost_multimodal_positions_stop_the_run(backbones, monkeypatch, name):
    model, processor = backbones(name)
    batch = pair_batch(model, processor)
    ResponseLogProbs()(model, batch.inputs, batch.response_mask)
    multimodal_positions_lost(monkeypatch)
    with pytest.raises(SelfCheckError):
        ResponseLogProbs()(model, batch.inputs, batch.response_mask)


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_a_lost_two_way_mask_stops_the_run(backbones, monkeypatch, name):
    model, processor = backbones(name)
    batch = pair_batch(model, processor)
    right = response.describe
    monkeypatch.setattr(response, "describe", lambda model: dataclasses.replace(right(model), two_way=""))
    with pytest.raises(SelfCheckError):
        ResponseLogProbs()(model, batch.inputs, batch.response_mask)


def test_a_lost_window_stops_the_run(monkeypatch):
    model = language_model("Mistral", sliding_window=4)
    right = response.describe
    monkeypatch.setattr(response, "describe", lambda model: dataclasses.replace(right(model), window=None))
    with pytest.raises(SelfCheckError):
        ResponseLogProbs()(model, *token_batch())


def test_a_boolean_mask_in_eager_attention_stops_the_run(monkeypatch):
    model = language_model("Llama")
    model.set_attn_implementation("eager")
    right = response.describe
    monkeypatch.setattr(response, "describe", lambda model: dataclasses.replace(right(model), additive=False))
    with pytest.raises(SelfCheckError):
        ResponseLogProbs()(model, *token_batch())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_rounding_does_not(backbones, name, dtype):
    model, processor = backbones(name)
    batch = pair_batch(model, processor, pairs=3)
    logps = ResponseLogProbs()
    logps(model.to(dtype), batch.inputs, batch.response_mask)
    assert logps.verdict.holds
    if dtype == torch.float32:
        assert logps.verdict.limit < 1e-5


def test_bfloat16_with_sharp_weights():
    """Log-probs around -10 and attention far from uniform, under weights and under autocast."""
    for seed in range(4):
        inputs, wanted = token_batch(seed=seed, pairs=4, prompt=(30, 60), response=(10, 30))
        logps = ResponseLogProbs()
        logps(language_model("Qwen3").bfloat16(), inputs, wanted)
        assert logps.verdict.holds
        logps = ResponseLogProbs()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logps(language_model("Qwen3"), inputs, wanted)
        assert logps.verdict.holds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_inside_the_forward(dtype, monkeypatch):
    """As accelerate does it: outside, nothing tells that the model computes in half precision."""
    inputs, wanted = token_batch(pairs=4, prompt=(30, 60), response=(10, 30))
    model = language_model("Qwen3")
    model.forward = torch.autocast("cpu", dtype=dtype)(model.forward)
    logps = ResponseLogProbs()
    logps(model, inputs, wanted)
    assert logps.verdict.holds
    assert logps.verdict.limit > 3 * torch.finfo(dtype).eps  # of half precision, whatever the noise is
    assert logps.verdict.noise > torch.finfo(dtype).eps / 4  # which only a nudge of its size makes
    rejected_sees_chosen(monkeypatch)
    with pytest.raises(SelfCheckError):
        ResponseLogProbs()(model, inputs, wanted)


def test_only_the_first_shared_batch_is_checked(monkeypatch):
    model = language_model("Llama")
    forwards = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    inputs, wanted = token_batch()
    logps = ResponseLogProbs()
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, 0] += 1
    counts = []
    for batch in (other, inputs, inputs):
        forwards.clear()
        logps(model, batch, wanted.clone())
        counts.append(len(forwards))
    assert counts == [1, 4, 1]
    assert logps.report()["pairs/shared"] == 6


def test_the_first_batch_with_images_is_checked_too(backbones, monkeypatch):
    model, processor = backbones("qwen2_5_vl")
    logps = ResponseLogProbs()
    text = pair_batch(model, processor, images=False)
    logps(model, text.inputs, text.response_mask)
    assert logps.report() == {"pairs/shared": 2} and logps.verdict.holds
    multimodal_positions_lost(monkeypatch)
    batch = pair_batch(model, processor)
    with pytest.raises(SelfCheckError):
        logps(model, batch.inputs, batch.response_mask)


@pytest.mark.parametrize("seed", [3, 6, 7])
def test_large_logits_that_are_rounded_coarsely_do_not(seed):
    """With products and attention that round otherwise for other rows, as on a GPU; likely tokens.

    Padding alone changes hardly a bit there, and a limit made of it refuses the model.
    """
    model = bounds.build(list(bounds.MODELS)[seed % 5], 2, seed, sharpness=1.5, head=8.0)
    given = bounds.batch(model, seed, [10, 40])
    with bounds.as_on_a_gpu(packed=True, split=True):
        sound = bounds.check(model.bfloat16(), given, autocast=False)
        with bounds.positions_go_on():
            fault = bounds.check(model, given, autocast=False)
    assert sound.quotient < 0.5 < 1 < sound.by_padding
    assert fault.quotient > 5


def test_a_nudge_leaves_the_model_as_it_was():
    model = language_model("Llama").bfloat16()
    inputs = token_batch()[0]
    before, state = model(**inputs).logits, torch.get_rng_state()
    with checks.nudge(model, torch.bfloat16):
        nudged = model(**inputs).logits
    assert torch.equal(model(**inputs).logits, before) and not torch.equal(nudged, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert "forward" not in model.get_input_embeddings().__dict__


def test_few_tokens_widen_the_limit():
    """Of four tokens, the root mean square of noise is by chance a third of another four's."""
    plain = torch.zeros(4)
    few = checks.judge(plain + 0.5, plain, plain + 0.1, torch.bfloat16)
    many = checks.judge(*(x.repeat(1000) for x in (plain + 0.5, plain, plain + 0.1)), torch.bfloat16)
    assert few.holds and not many.holds
