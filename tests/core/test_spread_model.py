"""A model whose layers lie on several GPUs, as `device_map: auto` leaves it.

On fake tensors, which know their devices and refuse to meet others: no numbers, and no backward pass.
"""

from __future__ import annotations

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch._subclasses.fake_tensor import FakeTensorMode

from aspo_plugin.logprobs import attention, pair_batch, response, varlen
from aspo_plugin.logprobs.attention import PrefixMask
from aspo_plugin.logprobs.output_layer import HeadReader, Unchanged
from aspo_plugin.logprobs.response import ResponseLogProbs
from tests.core.test_attention import shared_prefix
from tests.core.test_shared_prefix import language_model, token_batch

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")


def spread(model, head):
    """Fake weights; the second half of the layers and the norm on the second GPU, hooks as accelerate's."""
    layers = model.model.layers
    places = {model.model.embed_tokens: FIRST, model.model.rotary_emb: FIRST, model.model.norm: SECOND}
    places |= {
        layer: (SECOND if number >= len(layers) // 2 else FIRST) for number, layer in enumerate(layers)
    }
    places[model.lm_head] = head
    for part, device in places.items():
        for module in part.modules():
            for name, value in list(module._parameters.items()):
                if value is not None:
                    fake = torch.empty(value.shape, dtype=torch.bfloat16, device=device)
                    module._parameters[name] = torch.nn.Parameter(fake)
            for name, value in list(module._buffers.items()):
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)
        add_hook_to_module(part, AlignDevicesHook(execution_device=device))
    add_hook_to_module(model, AlignDevicesHook(execution_device=FIRST, io_same_device=True))


@pytest.mark.parametrize("attention_name", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("head", [FIRST, SECOND])
@pytest.mark.parametrize("kernel", [varlen.flash, None])
def test_layers_on_two_gpus(monkeypatch, attention_name, head, kernel):
    model = language_model("Qwen3", head_dim=16)
    model.config._attn_implementation = attention_name
    inputs, wanted = token_batch()
    on_host = pair_batch._on_host(inputs, wanted)
    monkeypatch.setattr(pair_batch, "_on_host", lambda *_: dict(on_host))
    used = []
    for place in (response, varlen):
        monkeypatch.setattr(place, "kernel_for", lambda device, *_: kernel)
    if kernel:
        counted = lambda *given: used.append(given[0].device) or varlen.flash(*given)  # noqa: E731
        monkeypatch.setattr(varlen, "kernel_for", lambda device, *_: counted)
        monkeypatch.setattr(attention, "seen", lambda *_: pytest.fail("the dense mask was made"))
    monkeypatch.setattr(
        HeadReader, "finish_probe", lambda self, *_: setattr(self, "logits", Unchanged()) or True
    )
    logps = ResponseLogProbs(self_check=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        spread(model, head)
        given = {
            key: torch.empty(value.shape, dtype=value.dtype, device=FIRST) for key, value in inputs.items()
        }
        mask = torch.empty(wanted.shape, dtype=torch.bool, device=FIRST)
        for _ in range(2):  # the first call probes the head
            found = logps(model, given, mask.clone())
            assert found.device == FIRST and found.shape == wanted.shape
    assert logps.report() == {"pairs/shared": 6}
    assert set(used) == ({FIRST, SECOND} if kernel else set())


def test_a_mask_that_is_moved_stays_one_and_moves_once():
    shared, layout = shared_prefix(packed=True, two_way=True)
    mask = PrefixMask(shared)
    meta = [mask.to("meta"), mask.to("meta", non_blocking=True), mask.detach().to(torch.device("meta"))]
    assert all(type(moved) is PrefixMask and moved.device.type == "meta" for moved in meta)
    assert len({id(moved.attention) for moved in meta}) == 1
    moved = meta[0].attention
    assert moved.layout.segment.is_meta and moved.layout.pieces == layout.pieces
    for problem, own in zip(moved.problems, shared.problems, strict=True):
        assert problem.key.is_meta and problem.key_ends.is_meta and problem.longest == own.longest
        assert (problem.query is None) == (own.query is None)
    assert mask.attention is shared and not layout.segment.is_meta
    assert type(mask.to("meta", torch.float32)) is torch.Tensor
