"""The stand-in for the mask: no mask is made where the varlen kernel runs, and it gives the same numbers.

The kernel has no CPU form: `tests.support.varlen` computes what it does, problem by problem.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from aspo_plugin.logprobs import attention, response, varlen
from aspo_plugin.logprobs.attention import PrefixMask, SharedPrefix
from aspo_plugin.logprobs.pair_layout import plan, to_layout
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
from tests.support.backbones import VISION_LANGUAGE
from tests.support.pairs import pair_batch, plain_logps
from tests.support.varlen import one_by_one

CPU = torch.device("cpu")


@pytest.fixture
def kernel(monkeypatch):
    """The kernel's stand-in on the CPU, counted; the dense mask is forbidden."""
    calls = []

    def counted(*args):
        calls.append(args)
        return one_by_one(*args)

    def forbidden(layout, window):
        raise AssertionError("the dense mask was made")

    monkeypatch.setattr(varlen, "kernel_for", lambda *_: counted)
    monkeypatch.setattr(attention, "seen", forbidden)
    return calls


@pytest.fixture(params=["rows apart", "packed"])
def rows(request, monkeypatch):
    """Both forms in which pairs stand: one row each, or all in one."""
    monkeypatch.setattr(response, "kernel_for", lambda *_: one_by_one if request.param == "packed" else None)
    return request.param


def packed(logps):
    (batch,) = [logps._last[1]]
    return batch.packed


@pytest.mark.parametrize("name", [*VISION_LANGUAGE, "text"])
def test_every_architecture(backbones, kernel, rows, name):
    model, processor = backbones(name)
    batch = pair_batch(model, processor, pairs=3, images=name != "text")
    logps = assert_equal_to_plain(model, batch)
    assert logps.report() == {"pairs/shared": 3}
    kinds = [type(module).__name__ for module in model.modules()]
    layers = sum(kind.endswith("DecoderLayer") and "CrossAttention" not in kind for kind in kinds)
    assert len(kernel) >= layers > 0
    # Mllama's rows stay apart, since each sees the images of its own row.
    assert packed(logps) == (rows == "packed" and name != "mllama")


@pytest.mark.parametrize(
    "kind, config",
    [
        ("Mistral", {"sliding_window": 5}),
        ("Qwen3", {}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
        ("Gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    ],
)
def test_windows_and_grouped_heads(kernel, rows, kind, config):
    model = language_model(kind, **config)
    if model.config._attn_implementation == "eager":
        pytest.skip("Gemma 2 caps its scores: transformers 5.24 knows that sdpa cannot")
    logps = assert_equal_to_plain(model, Batch(*token_batch()))
    assert logps.report() == {"pairs/shared": 3}
    grouped = {(call[0].shape[1], call[1].shape[1]) for call in kernel}
    assert grouped == {(4, 2)}  # keys are not repeated before the call
    assert {call[5] for call in kernel} == ({None, 5} if kind != "Qwen3" else {None}) - (
        {None} if kind == "Mistral" else set()
    )


@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl"])
def test_flash_attention_s_users_share_too(backbones, kernel, rows, name):
    """Without the flash-attn package: a call that did not reach ours would fail."""
    model, processor = backbones(name)
    batch = pair_batch(model, processor)
    expected = plain_logps(model, batch.inputs, batch.response_mask)
    expected_gradients = gradients(model, expected)
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    logps = ResponseLogProbs(self_check=False)
    found = logps(model, batch.inputs, batch.response_mask)
    assert (found - expected).abs().max() <= TOLERANCE
    assert_same_gradients(gradients(model, found), expected_gradients)
    assert logps.report() == {"pairs/shared": 2} and kernel


def test_other_calls_go_their_own_way():
    own = ALL_ATTENTION_FUNCTIONS["sdpa"]
    own = getattr(own, "own", own)
    attention.route("sdpa")
    attention.route("sdpa")
    routed = ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert routed.own is own and routed.__name__ == own.__name__
    q, k, v = torch.randn(3, 1, 2, 5, 8)
    module = torch.nn.Identity()
    for mask in (None, torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()):
        assert torch.equal(routed(module, q, k, v, mask)[0], own(module, q, k, v, mask)[0])
    attention.route("no such attention")


def test_capped_attention_is_not_shared_under_flash_attention():
    model = language_model("Gemma2", attn_logit_softcapping=5.0, query_pre_attn_scalar=8)
    model.config._attn_implementation = "flash_attention_2"
    assert "caps the attention logits" in ResponseLogProbs().why_not(model)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", ["llava", "gemma3", "mllama"])
def test_gradient_checkpointing(backbones, kernel, rows, name, reentrant):
    model, processor = backbones(name)
    batch = pair_batch(model, processor)
    expected = gradients(model, plain_logps(model, batch.inputs, batch.response_mask))
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = ResponseLogProbs(self_check=False)(model, batch.inputs, batch.response_mask)
    forward = len(kernel)
    assert_same_gradients(gradients(model, found), expected)
    assert len(kernel) > forward  # computed again in the backward pass


def test_rotated_in_float32_under_autocast(kernel, rows):
    """Rotary embeddings give float32 queries beside bfloat16 values; torch would cast for its own call."""
    model = language_model("Qwen3")
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    logps = ResponseLogProbs()
    logps(model, *token_batch(pairs=4, prompt=(30, 60), response=(10, 30)))
    assert logps.verdict.holds
    assert {tensor.dtype for call in kernel for tensor in call[:3]} == {torch.bfloat16}


def test_pairs_are_packed_once_the_precision_is_known(monkeypatch, kernel):
    """Float32 weights tell nothing of the autocast inside the forward: the first batch is not packed."""
    monkeypatch.setattr(
        response, "kernel_for", lambda device, dtype, size: one_by_one if dtype == torch.bfloat16 else None
    )
    model = language_model("Qwen3")
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    forwards = []
    model.register_forward_pre_hook(lambda *_: forwards.append(1))
    logps, seen = ResponseLogProbs(), []
    for seed in range(3):
        forwards.clear()
        inputs, wanted = token_batch(pairs=2, seed=seed, prompt=(30, 60), response=(10, 30))
        logps(model, inputs, wanted)
        seen.append((packed(logps), len(forwards)))
    assert seen == [(False, 4), (True, 4), (True, 1)]  # each form is checked


# --- the object itself -------------------------------------------------------------------------------------


def shared_prefix(seed=0, pairs=3, window=None, packed=False, two_way=False, multiple=1):
    """(`SharedPrefix`, its layout) of random pairs, with runs in the prompt that see both ways."""
    inputs, wanted = token_batch(pairs=pairs, seed=seed, prompt=(8, 20), response=(2, 9))
    ids, seen, mask = (x.numpy() for x in (inputs["input_ids"], inputs["attention_mask"].bool(), wanted))
    random = np.random.default_rng(seed)
    marks = np.tile(random.random((pairs, ids.shape[1])) < 0.6, (2, 1)) if two_way else None
    layout = to_layout(plan(ids, seen, mask, two_way=marks, packed=packed, multiple=multiple), CPU)
    problems = varlen.pair_problems(layout.pieces, layout.segment.numel(), CPU)
    return SharedPrefix(layout, problems, window), layout


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("form", [{"packed": True}, {"packed": False, "multiple": 8}])
@pytest.mark.parametrize("seed", range(3))
def test_the_problems_are_the_mask(monkeypatch, window, two_way, form, seed):
    """Values and gradients at every token that is not padding, grouped heads among them."""
    shared, layout = shared_prefix(seed, window=window, two_way=two_way, **form)
    rows, size = layout.segment.shape
    torch.manual_seed(seed)
    tensors = [torch.randn(rows, heads, size, 8, dtype=torch.float64) for heads in (4, 2, 2)]
    tensors = [x.requires_grad_() for x in tensors]
    real = (layout.segment != 3)[:, None, :, None]
    weights = torch.randn(rows, 4, size, 8, dtype=torch.float64) * real

    def run():
        out = shared.attend(*tensors)
        return [(out * real).detach(), *torch.autograd.grad((out * weights).sum(), tensors)]

    expected = run()
    monkeypatch.setattr(varlen, "kernel_for", lambda *_: one_by_one)
    shared._kernels.clear()
    for found, want in zip(run(), expected, strict=True):
        torch.testing.assert_close(found, want, atol=1e-12, rtol=1e-10)


def test_a_packed_pair_sees_no_other():
    shared, layout = shared_prefix(packed=True)
    assert layout.segment.shape[0] == 1 < len(layout.pieces)
    for piece in layout.pieces:
        own = slice(piece.start, piece.start + piece.length)
        mask = shared.mask[0, 0, own].clone()
        assert mask[:, own].any(1).all()
        mask[:, own] = False
        assert not mask.any()


def test_copies_hold_no_mask(monkeypatch):
    shared, layout = shared_prefix()
    monkeypatch.setattr(attention, "seen", lambda *_: pytest.fail("the dense mask was made"))
    mask = PrefixMask(shared)
    rows, size = layout.segment.shape
    assert tuple(mask.shape) == (rows, 1, size, size) and mask.dtype == torch.bool and mask.ndim == 4
    assert "PrefixMask" in repr(mask)
    copies = [
        mask.detach(), mask.clone(), mask.to("cpu"), mask.to(torch.bool), mask.to(torch.empty(0, dtype=bool)),
        copy.copy(mask), copy.deepcopy(mask), mask[:, :, :, :size], mask[:, :, :, : size + 5], mask[..., :],
        mask.contiguous(), copy.deepcopy({"masks": [mask]})["masks"][0],
    ]  # fmt: skip
    for kept in copies:
        assert type(kept) is PrefixMask and kept.attention is shared and kept.shape == mask.shape


def test_whoever_asks_for_values_gets_them():
    shared, layout = shared_prefix()
    dense, mask = attention.seen(layout, None), PrefixMask(shared)
    assert torch.equal(mask | False, dense) and torch.equal(~mask, ~dense)
    assert torch.equal(mask[:, :, 2:5, :7], dense[:, :, 2:5, :7])
    assert torch.equal(mask.to(torch.float32), dense.float())
    assert bool((mask == 1).any()) and torch.equal(
        torch.where(mask, 0.0, -1.0), torch.where(dense, 0.0, -1.0)
    )
    assert type(mask.expand(-1, 2, -1, -1)) is torch.Tensor


@pytest.mark.parametrize("case", ["dropout", "other length", "no kernel", "another head size"])
def test_what_the_kernel_cannot_do_goes_by_the_mask(monkeypatch, case):
    shared, layout = shared_prefix()
    rows, size = layout.segment.shape
    monkeypatch.setattr(
        varlen, "kernel_for", lambda *_: None if case == "no kernel" else pytest.fail("the kernel ran")
    )
    q, k, v = torch.randn(3, rows, 4, size, 8)
    mask, dense, dropout = PrefixMask(shared), attention.seen(layout, None), 0.0
    if case == "dropout":
        dropout = 0.5
    elif case == "other length":
        k, v = k[:, :, :1], v[:, :, :1]
        dense = dense[:, :, :, :1]
        monkeypatch.setattr(SharedPrefix, "mask", dense)
    elif case == "another head size":
        v = torch.randn(rows, 4, size, 16)
    torch.manual_seed(1)
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
    torch.manual_seed(1)
    assert torch.equal(found, F.scaled_dot_product_attention(q, k, v, attn_mask=dense, dropout_p=dropout))


@pytest.mark.parametrize("way", ["whole model", "layers"])
def test_a_compiled_model_gets_a_plain_mask(kernel, monkeypatch, way):
    monkeypatch.undo()
    model = language_model("Llama")
    inputs, wanted = token_batch()
    expected = plain_logps(model, inputs, wanted)
    given = []
    if way == "layers":
        for layer in model.model.layers:
            layer.compile(backend="eager")
        network = model
    else:
        network = torch.compile(model, backend="eager")
    logps = ResponseLogProbs(self_check=way == "whole model")
    model.model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: given.append(type(kwargs["attention_mask"])), with_kwargs=True
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Dynamo does not know")
        assert (logps(network, inputs, wanted) - expected).abs().max() <= TOLERANCE
    assert given[-1] is torch.Tensor
    assert not packed(logps)


# --- without a GPU: shapes, types and devices of the call itself ----------------------------------------


def test_the_flash_call_on_fake_cuda_tensors(monkeypatch):
    """The operator's signature and its results' shapes, and that everything stands on the GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    shared, layout = shared_prefix(packed=True, window=4)
    monkeypatch.setattr(varlen, "kernel_for", lambda *_: varlen.flash)
    size = layout.segment.shape[1]
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for problems in shared.problems:
            for name in ("query", "key", "query_ends", "key_ends"):
                value = getattr(problems, name)
                if value is not None:
                    setattr(problems, name, torch.empty(value.shape, dtype=value.dtype, device="cuda"))
        q, k, v = (torch.empty(1, h, size, 64, dtype=torch.bfloat16, device="cuda") for h in (8, 2, 2))
        out = shared.attend(q, k, v)
    assert out.shape == q.shape and out.device.type == "cuda" and out.dtype == torch.bfloat16
