"""On a GPU only (`pytest -m gpu tests/core`): the kernel itself, against float64 and the plain path."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aspo_plugin.logprobs import attention, varlen
from aspo_plugin.logprobs.response import ResponseLogProbs
from benchmarks import gpu_kernel
from tests.core.test_shared_prefix import SMALL, language_model, token_batch
from tests.support.pairs import pair_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
CASES = [(None, False), (37, False), (None, True), (100, True)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [(8, 8), (8, 2), (28, 4)])
@pytest.mark.parametrize("window, two_way", CASES)
def test_the_kernel_is_no_worse_than_the_mask(window, two_way, heads, dtype):
    """Errors of values and gradients against float64, beside those of torch's attention with the mask."""
    random = np.random.default_rng(0)
    lengths = [random.integers(1, 400, 3) for _ in range(3)]
    shared = gpu_kernel.pairs(lengths, "cuda", window=window, two_way=two_way, random=random)
    size = shared.layout.segment.shape[1]
    torch.manual_seed(0)
    given = [torch.randn(1, h, size, 64, device="cuda").to(dtype) for h in (heads[0], heads[1], heads[1])]
    assert varlen.kernel_for(given[0].device, dtype, 64) is varlen.flash
    weights = torch.randn(1, heads[0], size, 64, device="cuda")

    def by_mask(q, k, v):
        return shared._attend_masked(q, k, v, 0.0, None)

    found = gpu_kernel._outcome(shared.attend, given, weights)
    plain = gpu_kernel._outcome(by_mask, given, weights)
    exact = gpu_kernel._outcome(by_mask, [x.double() for x in given], weights)
    for got, masked, want in zip(found, plain, exact, strict=True):
        assert gpu_kernel._error(got, want) <= 1.5 * gpu_kernel._error(masked, want) + 1e-4


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3", "paligemma", "idefics3"])
def test_models_pack_and_make_no_mask(backbones, monkeypatch, name):
    """The self-check holds in bfloat16, from tokens on the GPU to the last gradient."""
    model, processor = backbones(name, dtype=torch.bfloat16)
    batch = pair_batch(model, processor, pairs=3)
    inputs = {key: value.cuda() for key, value in batch.inputs.items()}
    model, mask = model.cuda(), batch.response_mask.cuda()
    if varlen.kernel_for(mask.device, torch.bfloat16, text_head_size(model)) is not None:
        monkeypatch.setattr(attention, "seen", lambda *_: pytest.fail("the dense mask was made"))
    logps = ResponseLogProbs()
    with torch.no_grad():
        reference = logps(model, inputs, mask, again=True)
    policy = logps(model, inputs, mask)
    (policy - reference).sum().backward()
    assert logps.verdict.holds and logps.report() == {"pairs/shared": 6}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def text_head_size(model):
    text = model.config.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def test_by_the_mask_where_the_kernel_cannot():
    """Float32 weights without autocast: the same numbers as on the CPU."""
    model = language_model("Qwen3", **{**SMALL, "head_dim": 16})
    inputs, wanted = token_batch()
    expected = ResponseLogProbs()(model, inputs, wanted)
    logps = ResponseLogProbs()
    found = logps(model.cuda(), {k: v.cuda() for k, v in inputs.items()}, wanted.cuda())
    assert (found.cpu() - expected).abs().max() <= 1e-4 and logps.report() == {"pairs/shared": 3}


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_few_synchronisations(backbones, name):
    """A step's forward waits for the device a few times, not once a layer, window or row."""
    from torch.profiler import ProfilerActivity, profile

    model, processor = backbones(name, dtype=torch.bfloat16)
    batch = pair_batch(model, processor, pairs=3)
    inputs, mask = {k: v.cuda() for k, v in batch.inputs.items()}, batch.response_mask.cuda()
    model = model.cuda()
    model.requires_grad_(False)
    logps = ResponseLogProbs(self_check=False)
    with torch.no_grad():
        logps(model, inputs, mask.clone())
        fresh = mask.clone()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            logps(model, inputs, fresh)
    read = sum(event.name == "aten::_local_scalar_dense" for event in profiler.events())
    waits = sum(event.name == "cudaStreamSynchronize" for event in profiler.events())
    assert read <= 12 and waits <= 24, (read, waits)
