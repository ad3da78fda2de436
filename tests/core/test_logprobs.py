"""Response log-probs equal the full logits' in float32, without those logits ever existing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aspo_plugin.logprobs import chunked
from aspo_plugin.logprobs import pair_batch as batches
from aspo_plugin.logprobs.output_layer import output_head
from aspo_plugin.logprobs.pair_layout import plan
from aspo_plugin.logprobs.response import ResponseLogProbs
from tests.core.test_shared_prefix import (
    TOLERANCE,
    Batch,
    assert_equal_to_plain,
    assert_same_gradients,
    gradients,
    language_model,
    token_batch,
)
from tests.support.pairs import pair_batch, plain_logps


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 16 rows at a vocabulary of 64, so that every test has several and a ragged last one."""
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", 1)


def pieces(bias=False, rows=37, hidden=8, vocabulary=30, dtype=torch.float32):
    torch.manual_seed(0)
    head = nn.Linear(hidden, vocabulary, bias=bias).to(dtype)
    return head, torch.randn(rows, hidden, dtype=dtype, requires_grad=True), torch.randint(0, 30, (rows,))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("way", ["linear", "module"])
def test_chunked_head_and_its_gradients(bias, frozen, way):
    head, hidden, targets = pieces(bias)
    head.requires_grad_(not frozen)
    weights = torch.randn(len(targets))
    wanted = [hidden, *(p for p in head.parameters() if p.requires_grad)]

    expected = torch.log_softmax(head(hidden).float(), -1).gather(-1, targets[:, None])[:, 0]
    expected_gradients = torch.autograd.grad((expected * weights).sum(), wanted)
    if way == "linear":
        found = chunked.linear_logps(head, hidden, targets)
    else:
        found = chunked.module_logps(head, hidden, targets, 30)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for got, want in zip(
        torch.autograd.grad((found * weights).sum(), wanted), expected_gradients, strict=True
    ):
        torch.testing.assert_close(got, want, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(chunked.linear_logps(head, hidden, targets), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("master", [torch.bfloat16, torch.float32])
def test_bfloat16_is_no_worse_than_the_plain_way(frozen, master):
    """Error against float64, of log-probs and gradients, in bfloat16 and under autocast from float32."""
    head, hidden, targets = pieces(rows=64, hidden=32, dtype=master)
    head.requires_grad_(not frozen)
    wanted = [hidden] if frozen else [hidden, head.weight]
    weights = torch.randn(len(targets))

    def run(compute):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=master == torch.float32):
            logps = compute()
        assert logps.dtype == torch.float32
        grads = torch.autograd.grad((logps * weights).sum(), wanted)
        return [logps.detach(), *grads]

    plain = run(lambda: torch.log_softmax(head(hidden).float(), -1).gather(-1, targets[:, None])[:, 0])
    found = run(lambda: chunked.linear_logps(head, hidden, targets))
    exact_head, exact_hidden = copy.deepcopy(head).double(), hidden.detach().double().requires_grad_()
    logps = torch.log_softmax(exact_head(exact_hidden), -1).gather(-1, targets[:, None])[:, 0]
    exact = [logps.detach()]
    exact += torch.autograd.grad(
        (logps * weights).sum(), [exact_hidden] if frozen else [exact_hidden, exact_head.weight]
    )
    assert [x.dtype for x in found] == [x.dtype for x in plain]
    for got, reference, truth in zip(found, plain, exact, strict=True):
        assert (got - truth).norm() <= 1.5 * (reference - truth).norm() + 1e-3 * truth.norm()


class Largest(TorchDispatchMode):
    """The most elements of a tensor whose last dimension is `vocabulary`, weights aside."""

    def __init__(self, vocabulary, hidden):
        super().__init__()
        self.vocabulary, self.hidden, self.elements = vocabulary, hidden, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if torch.is_tensor(tensor) and tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary:
                if tensor.shape[-2] != self.hidden:
                    self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shared", ["auto", "false"])
def test_full_logits_never_exist(frozen, shared):
    model = language_model("Llama", vocab_size=61, tie_word_embeddings=False)
    model.lm_head.requires_grad_(not frozen)
    inputs, wanted = token_batch(pairs=6, response=(6, 12))
    inputs["input_ids"] %= 61
    logps = ResponseLogProbs(shared_prefix=shared)
    with Largest(61, model.config.hidden_size) as largest:
        logps(model, inputs, wanted).sum().backward()
    with Largest(61, model.config.hidden_size) as whole:
        plain_logps(model, inputs, wanted).sum().backward()
    assert largest.elements == 16 * 61
    assert whole.elements >= inputs["input_ids"].numel() * 61


@pytest.mark.parametrize(
    "kind, config",
    [
        ("Gemma2", {"final_logit_softcapping": 1.5}),
        ("Cohere", {"logit_scale": 0.25}),
        ("Granite", {"logits_scaling": 3.0}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"tie_word_embeddings": False}),
        ("Phi", {}),
    ],
)
def test_heads_that_cap_scale_or_are_tied(kind, config):
    """Cap and scale are found by the probe, not assumed; the second call relies on what the first learnt."""
    model = language_model(kind, **config)
    inputs, wanted = token_batch()
    logps = ResponseLogProbs(shared_prefix="false", self_check=False)
    for _ in range(2):
        assert_equal_to_plain(model, Batch(inputs, wanted), logps)
    assert logps.report() == {"pairs/plain": 6, "switched off (shared_prefix: false)": 2}


def test_a_config_that_says_more_than_the_model_does():
    """Several wrappers do not apply the soft cap of their config: the model decides, not the config."""
    model = language_model("Llama")
    model.config.final_logit_softcapping = 1.5
    assert_equal_to_plain(model, Batch(*token_batch()))


def test_an_unknown_function_after_the_head():
    class Shifted(type(language_model("Llama"))):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits - out.logits.square()
            return out

    model = language_model("Llama")
    model.__class__ = Shifted
    logps = assert_equal_to_plain(model, Batch(*token_batch()))
    assert logps.report()["the model changes its logits in a way that is not known here"] == 1
    assert_equal_to_plain(model, Batch(*token_batch()), logps)


def test_a_head_that_is_not_used():
    model = language_model("Llama")
    other = nn.Linear(model.config.hidden_size, model.config.vocab_size)
    model.get_output_embeddings = lambda: other
    logps = assert_equal_to_plain(model, Batch(*token_batch()))
    assert logps.report()["the output layer does not run once per forward"] == 1


def test_the_head_is_left_as_it_was(backbones):
    model, processor = backbones("llava")
    batch = pair_batch(model, processor)
    head = output_head(model)
    before = dict(head.__dict__)
    ResponseLogProbs()(model, batch.inputs, batch.response_mask)
    assert "forward" not in head.__dict__ and head.__dict__.keys() == before.keys()
    assert not head._forward_pre_hooks
    with pytest.raises(AttributeError):
        ResponseLogProbs()(model, {**batch.inputs, "pixel_values": "?"}, batch.response_mask)
    assert "forward" not in head.__dict__


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["q_proj", "lm_head"]])
@pytest.mark.parametrize("saved", [None, ["lm_head"]])
def test_lora_and_its_disabled_adapter(backbones, targets, saved):
    from peft import LoraConfig, get_peft_model

    if saved and "lm_head" in targets:
        targets = ["q_proj"]
    base, processor = backbones("llava")
    batch = pair_batch(base, processor)
    reference = plain_logps(base, batch.inputs, batch.response_mask).detach()
    model = get_peft_model(base, LoraConfig(target_modules=targets, modules_to_save=saved, r=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
        if "modules_to_save" in name:
            parameter.data *= 1.5
    logps = assert_equal_to_plain(model, batch)
    with torch.no_grad(), model.disable_adapter():
        without = logps(model, batch.inputs, batch.response_mask)
    assert (without - reference).abs().max() <= TOLERANCE
    with torch.no_grad():
        assert (logps(model, batch.inputs, batch.response_mask) - reference).abs().max() > 0.01
    assert logps.report() == {"pairs/shared": 6}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(backbones, reentrant):
    model, processor = backbones("qwen2_5_vl")
    batch = pair_batch(model, processor)
    expected = gradients(model, plain_logps(model, batch.inputs, batch.response_mask))
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = ResponseLogProbs()(model, batch.inputs, batch.response_mask)
    assert_same_gradients(gradients(model, found), expected)


def test_the_reference_uses_the_policy_s_plan(monkeypatch):
    calls = []
    monkeypatch.setattr(batches, "plan", lambda *a, **k: calls.append(1) or plan(*a, **k))

    policy, reference = language_model("Llama"), language_model("Llama", num_hidden_layers=1)
    inputs, wanted = token_batch()
    logps = ResponseLogProbs(self_check=False)
    logps(policy, inputs, wanted)
    found = logps(reference, inputs, wanted)
    assert len(calls) == 1
    assert (found - plain_logps(reference, inputs, wanted)).abs().max() <= TOLERANCE
    other, wanted = token_batch(seed=5)
    found = logps(policy, other, wanted)
    assert len(calls) == 2
    assert (found - plain_logps(policy, other, wanted)).abs().max() <= TOLERANCE


def test_masked_tokens_change_nothing():
    model = language_model("Llama")
    inputs, wanted = token_batch()
    found = ResponseLogProbs()(model, inputs, wanted)
    inputs["input_ids"] = torch.where(inputs["attention_mask"] == 0, 7, inputs["input_ids"])
    assert torch.equal(ResponseLogProbs()(model, inputs, wanted), found)
    assert (found[~wanted] == 0).all() and (found[wanted] < 0).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i, m: i.update(labels=i["input_ids"]), "inputs holds labels"),
        (lambda i, m: m[0].fill_(True), "first token, which nothing predicts"),
        (lambda i, m: m[1].fill_(False), "row 1 of the batch has no response token"),
    ],
)
def test_wrong_inputs(change, message):
    inputs, wanted = token_batch()
    change(inputs, wanted)
    with pytest.raises(ValueError, match=message):
        ResponseLogProbs()(language_model("Llama"), inputs, wanted)
    inputs, wanted = token_batch()
    with pytest.raises(ValueError, match="response_mask is"):
        ResponseLogProbs()(language_model("Llama"), inputs, wanted[:, 1:])


def test_confident_tokens_keep_their_gradient_in_bfloat16():
    """Where p is almost 1 the slope is the small 1 - p: it must not be lost to rounding p."""
    torch.manual_seed(0)
    head = nn.Linear(64, 500, bias=False).bfloat16().requires_grad_(False)
    targets = torch.randint(0, 500, (64,))
    start = (head.weight[targets].float() * 36 + torch.randn(64, 64) * 0.3).bfloat16()

    def slope(compute):
        hidden = start.clone().requires_grad_()
        logps = compute(hidden)
        assert (logps.detach().float().exp() > 0.9).float().mean() > 0.5
        return torch.autograd.grad(logps.sum(), hidden)[0].double()

    def log_softmax(layer, hidden):
        return torch.log_softmax(layer(hidden).float(), -1).gather(-1, targets[:, None])[:, 0]

    exact_hidden = start.double().requires_grad_()
    logits = copy.deepcopy(head).double()(exact_hidden)
    exact = torch.autograd.grad(
        torch.log_softmax(logits, -1).gather(-1, targets[:, None]).sum(), exact_hidden
    )[0]
    plain = slope(lambda hidden: log_softmax(head, hidden))
    found = slope(lambda hidden: chunked.linear_logps(head, hidden, targets))
    assert (found - exact).norm() <= 1.2 * (plain - exact).norm()


def test_a_soft_cap_is_known_where_accelerate_makes_the_outputs_float32():
    from accelerate.utils import convert_outputs_to_fp32

    model = language_model("Gemma2", final_logit_softcapping=5.0).bfloat16()
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    logps = ResponseLogProbs(self_check=False)
    logps(model, *token_batch())
    assert logps.report() == {"pairs/shared": 3}
