"""A model that nobody listed shares a prefix where a small copy proves that exact, and only there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aspo_plugin.logprobs import architectures, trial
from aspo_plugin.logprobs.architectures import Architecture, Unlisted
from aspo_plugin.logprobs.pair_batch import PairBatch
from aspo_plugin.logprobs.response import ResponseLogProbs
from tests.support.backbones import TRIED, today
from tests.support.pairs import pair_batch

from .test_shared_prefix import Batch, assert_equal_to_plain, language_model, token_batch


@pytest.fixture
def nothing_listed(monkeypatch):
    monkeypatch.setattr(architectures, "VISION_MODELS", frozenset())
    monkeypatch.setattr(architectures, "TEXT_MODELS", frozenset())


# By what is special: towers, grids of positions, features added to the first layers, experts, tiles.
LISTED = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl_moe", "internvl", "idefics3", "aya_vision")


@pytest.mark.parametrize("name", [n for n in LISTED if n != "aya_vision" or n in today()])
def test_a_listed_model_without_its_name_is_accepted(backbones, name, nothing_listed):
    model, processor = backbones(name)
    assert isinstance(architectures.describe(model), Unlisted)
    logps = ResponseLogProbs()
    for images, seed in ((True, 0), (False, 1)):
        batch = pair_batch(model, processor, pairs=2, seed=seed, images=images)
        assert_equal_to_plain(model, batch, logps)
    assert logps.report() == {"pairs/shared": 4}


@pytest.mark.parametrize("name", [n for n in TRIED if n in today()])
def test_a_model_that_nobody_listed_is_accepted(backbones, name):
    model, processor = backbones(name)
    logps = ResponseLogProbs(shared_prefix="true")
    assert_equal_to_plain(model, pair_batch(model, processor, pairs=2), logps)
    assert logps.report() == {"pairs/shared": 2}


@pytest.mark.parametrize(
    "kind, config",
    [("Phi3", {"pad_token_id": 0}), ("Olmo2", {}), ("Cohere", {})],
)
def test_language_models_that_nobody_listed(kind, config):
    logps = assert_equal_to_plain(language_model(kind, **config), Batch(*token_batch()), ResponseLogProbs())
    assert logps.report() == {"pairs/shared": 3}


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_what_sees_an_image_both_ways_is_refused(backbones, name, nothing_listed):
    model, processor = backbones(name)
    batch = pair_batch(model, processor, pairs=2)
    candidate = architectures.describe(model).architecture
    assert isinstance(trial.try_batch(model, candidate, batch.inputs, batch.response_mask)[0], Architecture)
    one_way = replace(candidate, two_way="")
    found, _ = trial.try_batch(model, one_way, batch.inputs, batch.response_mask)
    assert found == "a small copy of it gives other log-probs with a shared prefix"


@pytest.mark.parametrize("name", [n for n in ("qwen3_5", "lfm2_vl", "hunyuan_vl", "gemma4") if n in today()])
@pytest.mark.parametrize("images", [True, False])
def test_what_carries_a_state_along_a_row_is_refused(backbones, name, images):
    """Also where no kind of layer gives it away before."""
    if name in ("hunyuan_vl", "gemma4") and not images:
        pytest.skip("text alone is exact")
    model, processor = backbones(name)
    batch = pair_batch(model, processor, pairs=2, images=images)
    found, _ = trial.try_batch(model, Architecture(), batch.inputs, batch.response_mask)
    assert isinstance(found, str) and "small copy" in found


class Recurrent(torch.nn.Module):
    """A linear layer, and a moving average along the row."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, hidden):
        mixed = self.linear(hidden)
        return mixed + 0.01 * mixed.cumsum(1)


def odd(change):
    """Llama, changed: nothing in its config says so."""
    import transformers

    class Odd(transformers.LlamaForCausalLM):
        def __init__(self, config):
            super().__init__(config)
            change(self.model)

    torch.manual_seed(0)
    return Odd(language_model("Llama").config).eval()


def counted(model):
    """Positions are those of the row, whatever is asked for."""
    own = model.rotary_emb.forward
    model.rotary_emb.forward = lambda x, position_ids: own(x, torch.arange(x.shape[1])[None])


def recurrent(model):
    model.layers[0].mlp.down_proj = torch.nn.Sequential(model.layers[0].mlp.down_proj, Recurrent(32))


def third_only(model):
    """One layer, which a copy of two would not have, looks at the token before."""
    for layer in model.layers[2:]:
        layer.looks_back = True
        own = layer.forward
        layer.forward = lambda hidden, *args, own=own, **kwargs: own(
            hidden + hidden.roll(1, 1), *args, **kwargs
        )


def from_forty(model):
    """A token at place 40 or later is another: seen in rows that are longer than the first batch's."""
    own = model.layers[0].forward
    late = lambda hidden: 1.0 + (torch.arange(hidden.shape[1]) >= 40).float()[None, :, None]  # noqa: E731
    model.layers[0].forward = lambda hidden, *args, **kwargs: own(hidden * late(hidden), *args, **kwargs)


@pytest.mark.parametrize("change", [counted, recurrent, third_only, from_forty])
def test_changed_models_are_refused(change, nothing_listed):
    model = odd(change)
    inputs, mask = token_batch(prompt=(30, 31), response=(2, 4))
    assert inputs["input_ids"].shape[1] + int(mask[-1].sum()) < 40  # also as one row per pair
    logps = assert_equal_to_plain(model, Batch(inputs, mask), ResponseLogProbs())
    assert logps.report()["pairs/plain"] == 3 and "pairs/shared" not in logps.report()


def test_the_same_model_unchanged_is_accepted(nothing_listed):
    logps = assert_equal_to_plain(odd(lambda model: None), Batch(*token_batch()), ResponseLogProbs())
    assert logps.report() == {"pairs/shared": 3}


def test_longer_rows_and_other_inputs_are_tried_anew(backbones, nothing_listed, monkeypatch):
    tried = []
    own = trial.try_batch
    monkeypatch.setattr(trial, "try_batch", lambda *given: tried.append(given[2]) or own(*given))
    model = odd(lambda model: None)
    logps = ResponseLogProbs()
    for prompt in ((5, 12), (5, 12), (40, 41), (5, 12)):
        logps(model, *token_batch(prompt=prompt))
    assert [given["input_ids"].shape[1] > 40 for given in tried] == [False, True]

    tried.clear()
    model, processor = backbones("llava")
    for images in (False, False, True, True):
        batch = pair_batch(model, processor, images=images)
        logps(model, batch.inputs, batch.response_mask)
    assert ["pixel_values" in given for given in tried] == [False, True]


@pytest.fixture(params=["older", "newer"])
def tensor_float_32(request):
    """As a run with `tf32: true` asks for it, by either of torch's two interfaces, which do not mix."""
    if request.param == "newer" and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("torch before 2.9")
    code = {
        "older": "torch.set_float32_matmul_precision('high')",
        "newer": "torch.backends.fp32_precision = 'tf32'",
    }
    exec(code[request.param])
    yield
    if request.param == "older":
        torch.set_float32_matmul_precision("highest")
    else:
        torch.backends.fp32_precision = "none"


def precisions():
    backends = torch.backends
    return [
        x.fp32_precision for x in (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    ]


def test_training_goes_on_with_its_random_numbers_and_precision(nothing_listed, tensor_float_32):
    model = odd(lambda model: None).to(torch.bfloat16)
    before = precisions()
    with trial._exactly(torch.device("cpu")):
        assert precisions() == ["ieee"] * 4 != before
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with torch.no_grad():
        logps = ResponseLogProbs()
        logps(model, *token_batch())
    assert logps.report() == {"pairs/shared": 3}
    assert torch.equal(torch.rand(4), expected) and precisions() == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_cannot_be_copied_goes_the_plain_way_and_says_so(nothing_listed, caplog):
    def refuse(self):
        if torch.nn.Linear(1, 1).weight.is_meta:
            raise RuntimeError("this model reads a file")

    model = odd(lambda model: None)
    type(model).post_init = refuse
    logps = assert_equal_to_plain(model, Batch(*token_batch()), ResponseLogProbs())
    assert logps.report()["pairs/plain"] == 3
    told = [record.getMessage() for record in caplog.records if "the plain way" in record.getMessage()]
    assert len(told) == 1 and "this model reads a file" in told[0]
    with pytest.raises(ValueError, match="Set it to auto"):
        ResponseLogProbs(shared_prefix="true")(model, *token_batch())


def test_a_batch_that_cannot_share_says_nothing_of_the_model(nothing_listed):
    model = odd(lambda model: None)
    inputs, mask = token_batch()
    other = {**inputs, "input_ids": inputs["input_ids"].clone()}
    other["input_ids"][0, 0] += 1  # the prompts differ
    logps = ResponseLogProbs(shared_prefix="true")
    logps(model, other, mask)
    logps(model, inputs, mask)
    assert {k: n for k, n in logps.report().items() if "/" in k} == {"pairs/plain": 3, "pairs/shared": 3}
    assert isinstance(PairBatch(model, inputs, mask, Architecture()).layout, object)
