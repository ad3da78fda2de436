"""Two forwards of a model in training are the same once its dropout is off."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.training.dropout import disable_attention_dropout
from tests.support.pairs import pair_batch


@pytest.mark.parametrize("name", ["instructblip", "qwen2_5_vl"])
def test_no_dropout_is_left(backbones, name):
    model, processor = backbones(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.1
    assert disable_attention_dropout(model.train()) > 0
    assert disable_attention_dropout(model) == 0
    batch = pair_batch(model, processor)
    logps = ResponseLogProbs(self_check=False)
    first, second = (logps(model, batch.inputs, batch.response_mask) for _ in range(2))
    assert torch.equal(first, second)
