"""Adapter and gradient checkpointing off: what PEFT and TRL give, and nothing left behind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers.integrations.neftune import neftune_post_forward_hook

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.training.reference import WithoutAdapter
from aspo_plugin.training.reference_pass import adapter_off, checkpointing_off, noise_off
from tests.core.test_shared_prefix import language_model, token_batch


def adapted(**options):
    torch.manual_seed(1)
    model = get_peft_model(
        language_model("Llama"), LoraConfig(target_modules=["q_proj", "up_proj"], r=4, **options)
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def state(model):
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}])
@pytest.mark.parametrize("merged", [False, True])
def test_as_peft_does_it(options, merged):
    model = adapted(**options)
    ids = token_batch()[0]["input_ids"]
    with torch.no_grad():
        with_adapter = model(input_ids=ids).logits
        with model.disable_adapter():
            expected = model(input_ids=ids).logits
        if merged:
            model.merge_adapter()
        before = state(model)
        for _ in range(2):
            with pytest.raises(KeyError), adapter_off(model):
                found = model(input_ids=ids).logits
                assert state(model) == before
                raise KeyError
            torch.testing.assert_close(found, expected, atol=1e-4 if merged else 0, rtol=0)
        torch.testing.assert_close(model(input_ids=ids).logits, with_adapter, atol=1e-4, rtol=0)
    assert (expected - with_adapter).abs().max() > 1e-2
    assert state(model) == before


def test_a_prompt_that_is_no_layer_is_left_to_peft():
    base = language_model("Llama")
    ids = token_batch()[0]["input_ids"]
    with torch.no_grad():
        expected = base(input_ids=ids).logits
        model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
        with adapter_off(model):
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert model(input_ids=ids).logits.shape[1] == ids.shape[1] + 3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_off_and_on_again(reentrant):
    model = adapted().train()
    ids = token_batch()[0]["input_ids"]
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    hooks = len(model.get_input_embeddings()._forward_hooks)
    layer = model.get_base_model().model.layers[0]
    runs = []
    layer.self_attn.register_forward_pre_hook(lambda *_: runs.append(1))

    def backward():
        runs.clear()
        model(input_ids=ids).logits.sum().backward()
        return len(runs)

    assert backward() == 2
    for _ in range(5):
        with pytest.raises(KeyError), checkpointing_off(model):
            assert backward() == 1
            raise KeyError
    assert backward() == 2
    assert len(model.get_input_embeddings()._forward_hooks) == hooks


def test_a_reference_gets_no_noise():
    """In training mode, in which a live reference answers and a cache is filled."""
    model = adapted().train()
    inputs, mask = token_batch()[:2]
    trainer = SimpleNamespace(accelerator=SimpleNamespace(unwrap_model=lambda policy: policy))
    reference = WithoutAdapter(ResponseLogProbs(), trainer)
    clean = reference.logps(model, inputs, mask)
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(neftune_post_forward_hook)
    embedding.neftune_noise_alpha = 50.0
    assert torch.equal(reference.logps(model, inputs, mask), clean)
    with torch.no_grad(), adapter_off(model):
        assert not torch.allclose(ResponseLogProbs()(model, inputs, mask), clean, atol=0.01)
    assert embedding.neftune_noise_alpha == 50.0
    with noise_off(model):
        assert embedding.neftune_noise_alpha == 0.0
