"""A frozen vision tower gets no backward pass, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.logprobs.vision_tower import frozen_without_gradients, vision_towers
from aspo_plugin.training.dropout import disable_attention_dropout
from tests.core.test_shared_prefix import TOLERANCE, assert_same_gradients, gradients
from tests.support.backbones import VISION_LANGUAGE
from tests.support.pairs import pair_batch, plain_logps


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
