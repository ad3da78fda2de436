"""A frozen vision tower gets no backward pass, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from aspo_plugin.logprobs import response, vision_tower
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.logprobs.vision_tower import frozen_without_gradients, vision_towers
from aspo_plugin.training.dropout import disable_attention_dropout
from tests.core.test_shared_prefix import TOLERANCE, assert_same_gradients, gradients
from tests.support.backbones import VISION_LANGUAGE
from tests.support.pairs import pair_batch, plain_logps
from tests.support.varlen import one_by_one


@pytest.mark.parametrize("name", VISION_LANGUAGE)
def test_gradients_without_the_tower(backbones, name):
    """With all that hosts do for checkpointing: same gradients, and none walk through the tower."""
    model, processor = backbones(name)
    (tower,) = vision_towers(model)
    tower.requires_grad_(False)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    disable_attention_dropout(model)
    batch = pair_batch(model, processor, pairs=2)
    seen = []

    def note(module, given, output):
        leaves = tree_leaves(output.to_tuple() if hasattr(output, "to_tuple") else output)
        seen.append(any(x.requires_grad for x in leaves if torch.is_tensor(x)))

    tower.register_forward_hook(note)

    plain = plain_logps(model, batch.inputs, batch.response_mask)
    expected = gradients(model, plain)
    for shared in ("auto", "false"):
        found = ResponseLogProbs(shared_prefix=shared, self_check=False)(
            model, batch.inputs, batch.response_mask
        )
        assert (found - plain).abs().max() <= TOLERANCE
        assert_same_gradients(gradients(model, found), expected)
    assert seen[0] or name in ("qwen3_vl", "qwen3_vl_moe")  # which name no input embedding in their tower
    assert not any(seen[1:])
    assert len(seen) == 3


@pytest.mark.parametrize("trained", ["all", "one weight", "none"])
def test_only_a_tower_without_trained_weights(backbones, trained):
    model, _ = backbones("llava")
    (tower,) = vision_towers(model)
    tower.requires_grad_(trained == "all")
    if trained == "one weight":
        next(tower.parameters()).requires_grad_()
    pixels = torch.randn(1, 3, *[model.config.vision_config.image_size] * 2)
    with pytest.raises(KeyError), frozen_without_gradients([tower]):
        for parameter in tower.embeddings.parameters() if hasattr(tower, "embeddings") else ():
            parameter.requires_grad_(trained != "none")
        assert tower(pixels.requires_grad_())[0].requires_grad == (trained != "none")
        raise KeyError
    assert "forward" not in tower.__dict__
    assert tower(pixels)[0].requires_grad


# --- one forward of the tower per step ---------------------------------------------------------------


def counted(tower):
    """A list that grows with each forward, counted at the layer that reads the pixels."""
    forwards = []
    kinds = torch.nn.Conv2d | torch.nn.Conv3d
    inner = next(module for module in tower.modules() if isinstance(module, kinds))
    inner.register_forward_hook(lambda *_: forwards.append(1))
    return forwards


@pytest.mark.parametrize("shared", ["auto", "false"])
@pytest.mark.parametrize("name", VISION_LANGUAGE)
def test_reference_and_policy_share_what_the_tower_gives(backbones, name, shared):
    """Bit for bit what two forwards give: values, and gradients of what comes after the tower."""
    model, processor = backbones(name)
    (tower,) = vision_towers(model)
    tower.requires_grad_(False)
    batch = pair_batch(model, processor, pairs=2)
    forwards = counted(tower)
    results = []
    for again in (False, True):
        logps = ResponseLogProbs(shared_prefix=shared, self_check=False)
        mask = batch.response_mask.clone()
        logps(model, batch.inputs, mask.clone())  # the output layer is looked at
        forwards.clear()
        with torch.no_grad():
            reference = logps(model, batch.inputs, mask, again=again)
        once = len(forwards)
        policy = logps(model, batch.inputs, mask)
        results.append((reference, policy.detach(), gradients(model, policy)))
        assert once > 0 and len(forwards) == (1 if again else 2) * once
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
    assert results[0][2].keys() == results[1][2].keys()
    assert all(torch.equal(value, results[1][2][key]) for key, value in results[0][2].items())


def test_another_batch_or_a_trained_tower_is_computed_anew(backbones):
    model, processor = backbones("llava")
    (tower,) = vision_towers(model)
    batch = pair_batch(model, processor, pairs=2)
    other = pair_batch(model, processor, pairs=2, seed=7)
    logps = ResponseLogProbs(self_check=False)
    logps(model, batch.inputs, batch.response_mask.clone())
    forwards = counted(tower)
    for frozen, expected in ((True, 3), (False, 4)):
        tower.requires_grad_(not frozen)
        forwards.clear()
        mask = batch.response_mask.clone()
        logps(model, batch.inputs, mask, again=True)
        found = logps(model, other.inputs, other.response_mask, again=True)
        assert (found - plain_logps(model, other.inputs, other.response_mask)).abs().max() <= TOLERANCE
        forwards.pop()
        logps(model, other.inputs, other.response_mask)
        logps(model, other.inputs, other.response_mask)  # a third pass finds nothing
        assert len(forwards) == expected


def test_nothing_is_held_after_the_last_pass(backbones):
    """A reference model of its own keeps for a policy whose tower is another."""
    reference, processor = backbones("llava")
    policy, _ = backbones("llava")
    for model in (reference, policy):
        vision_towers(model)[0].requires_grad_(False)
    batch = pair_batch(policy, processor, pairs=2)
    logps = ResponseLogProbs(self_check=False)
    with torch.no_grad():
        logps(reference, batch.inputs, batch.response_mask, again=True)
    kept = logps._last[1].tower_outputs._kept
    assert list(kept) == vision_towers(reference)
    logps(policy, batch.inputs, batch.response_mask)
    assert not kept


@pytest.mark.parametrize("case", ["adapter", "dropout"])
def test_a_tower_that_differs_between_policy_and_reference_runs_twice(backbones, case):
    """The reference goes without an adapter in the tower, while PEFT has its gradients switched off."""
    from peft import LoraConfig, get_peft_model

    model, processor = backbones("llava")
    batch = pair_batch(model, processor, pairs=2)
    if case == "adapter":
        model = get_peft_model(model, LoraConfig(target_modules=r".*vision.*\.(q|v)_proj", r=4))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.5)
    (tower,) = vision_towers(model)
    if case == "dropout":
        tower.requires_grad_(False)
        tower.add_module("a_dropout", torch.nn.Dropout(0.1))
    forwards = counted(tower)
    logps, mask = ResponseLogProbs(self_check=False), batch.response_mask
    logps(model, batch.inputs, mask.clone())
    forwards.clear()
    with torch.no_grad():
        if case == "adapter":
            with model.disable_adapter():
                reference = logps(model, batch.inputs, mask, again=True)
                assert (reference - plain_logps(model, batch.inputs, mask)).abs().max() <= TOLERANCE
        else:
            logps(model, batch.inputs, mask, again=True)
        forwards.clear()
        policy = logps(model, batch.inputs, mask)
        assert forwards
        assert (policy - plain_logps(model, batch.inputs, mask)).abs().max() <= TOLERANCE
    if case == "adapter":
        assert (policy - reference).abs().max() > 1e-3


# --- towers that attend within windows -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_packed_tower_attends_in_one_call_a_layer(backbones, monkeypatch, name):
    model, processor = backbones(name)
    (tower,) = vision_towers(model)
    tower.requires_grad_(False)
    batch = pair_batch(model, processor, pairs=3)
    expected = ResponseLogProbs(self_check=False)(model, batch.inputs, batch.response_mask)
    calls = []

    def kernel(*args):
        calls.append(args[3])
        return one_by_one(*args)

    monkeypatch.setattr(vision_tower.varlen, "kernel_for", lambda *_: kernel)
    monkeypatch.setattr(response, "kernel_for", lambda *_: None)
    monkeypatch.setattr("aspo_plugin.logprobs.attention.varlen.kernel_for", lambda *_: kernel)
    found = ResponseLogProbs(self_check=False)(model, batch.inputs, batch.response_mask)
    assert (found - expected).abs().max() <= TOLERANCE
    whole = [problems for problems in calls if problems.key is None]
    assert len(whole) == len(tower.blocks) and not any(problems.causal for problems in whole)
    assert tower.config._attn_implementation == "sdpa"
    calls.clear()
    tower.requires_grad_()  # computed again in a backward pass under checkpointing: left as it is
    ResponseLogProbs(self_check=False)(model, batch.inputs, batch.response_mask)
    assert all(problems.key is not None for problems in calls)
