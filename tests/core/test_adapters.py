"""LoRA layers under autocast: no float32 copies of their inputs, and not one bit of difference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from aspo_plugin.training.adapters import keep_input_dtype
from tests.core.test_shared_prefix import language_model

LAYERS = 3 * 7  # layers of the model, and projections with an adapter in each


def adapted(**options):
    """A bfloat16 model with float32 adapters that are not zero, as hosts train them."""
    from peft import LoraConfig, get_peft_model

    model = language_model("Llama").to(torch.bfloat16).train()
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", **options))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def run(model):
    """Logits, gradients, and bytes kept for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.arange(40).view(2, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16), saved_tensors_hooks(keep, lambda x: x):
        logits = model(input_ids=ids).logits
    bytes_kept = sum(kept.values())
    model.zero_grad()
    logits.float().logsumexp(-1).sum().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, bytes_kept


def test_the_same_bits_with_less_memory():
    plain = adapted()
    lean = copy.deepcopy(plain)
    assert keep_input_dtype(lean) == LAYERS
    logits, expected, before = run(plain)
    found, gradients, after = run(lean)
    assert torch.equal(found, logits)
    assert gradients.keys() == expected.keys() and len(gradients) == 2 * LAYERS
    assert all(torch.equal(gradients[name], expected[name]) for name in expected)
    assert any(value.any() for value in gradients.values())
    assert after < before


def test_outside_autocast_peft_casts_as_ever():
    """As when text is generated with the trained model."""
    model = adapted()
    ids = torch.arange(40).view(2, 20)
    expected = model(input_ids=ids).logits
    keep_input_dtype(model)
    assert keep_input_dtype(model) == 0
    assert torch.equal(copy.deepcopy(model)(input_ids=ids).logits, expected)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_layers_that_compute_on_the_copy_are_left_alone(options):
    assert keep_input_dtype(adapted(**options)) == 0
