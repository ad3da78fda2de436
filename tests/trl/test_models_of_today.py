"""For every architecture that transformers has: what TRL's DPO trains has the same numbers in ASPO."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import backbones

from . import host_dpo

# What TRL's own DPO does not train either in some tested versions; in the others the numbers must be equal.
HOST_FAILS = {
    ("minicpm_v_4_6", "several images"),
    # Its collator knows one kind of per-token input of this processor, and not the other.
    *(("ernie4_5_vl_moe", kind) for kind in host_dpo.SETS if kind != "text"),
    # Its forward asks for an output that Transformers 5.24 does not give, in every training.
    *(("llama4", kind) for kind in host_dpo.SETS),
}

# TRL's fused output layer, from 1.15 on, scales by a factor of the text's configuration, which the forward of
# these models does not: TRL's numbers are not the model's.
HOST_SCALES = ("aya_vision", "cohere2_vision", "granite_vision")


@pytest.mark.parametrize("name", backbones.today())
def test_log_probs_loss_and_gradients_are_those_of_trls_dpo(name: str, model: Any) -> None:
    pair = host_dpo.Pair(model(name), aspo_alpha=0.0)
    for kind in host_dpo.SETS:
        outcome = host_dpo.compare(pair, kind)
        if outcome.host_error and (name, kind) in HOST_FAILS:
            continue
        assert not outcome.host_error and not outcome.our_error, (kind, outcome)
        if outcome.differences and name in HOST_SCALES and host_dpo.fused():
            ours, own = host_dpo.of_the_model(pair, kind)
            torch.testing.assert_close(ours, own, rtol=2e-6, atol=2e-4)
        else:
            assert not outcome.differences, (kind, outcome.differences)
        # Of a model that nobody listed a text alone may be proven exact, where its images are not.
        if name in backbones.SHARES or name not in backbones.TRIED and kind != "text":
            assert outcome.shared == (name in backbones.SHARES), kind
