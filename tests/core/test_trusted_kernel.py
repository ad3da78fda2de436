"""The flash kernel is tried once on the card at hand; one that fails or differs is not used, and logged."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from aspo_plugin.logprobs import varlen
from aspo_plugin.logprobs.varlen import trusted
from tests.core.test_attention import one_by_one

CPU = torch.device("cpu")


def never_causal(query, key, value, problems, scale, window):
    return one_by_one(query, key, value, dataclasses.replace(problems, causal=False), scale, window)


def no_window(query, key, value, problems, scale, window):
    return one_by_one(query, key, value, problems, scale, None)


def wrong_scale(query, key, value, problems, scale, window):
    return one_by_one(query, key, value, problems, scale * 1.5, window)


def no_gradient_to_keys(query, key, value, problems, scale, window):
    return one_by_one(query, key.detach() + 0 * key, value, problems, scale, window)


def not_a_number(query, key, value, problems, scale, window):
    return one_by_one(query, key, value, problems, scale, window) * float("nan")


def unknown(*_):
    raise RuntimeError("no such operator in this build")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [72, 256])
def test_an_exact_kernel_is_trusted(dtype, head_size, caplog):
    with caplog.at_level(logging.WARNING):
        assert trusted(one_by_one, CPU, dtype, head_size)
    assert not caplog.text


@pytest.mark.parametrize(
    "kernel", [never_causal, no_window, wrong_scale, no_gradient_to_keys, not_a_number, unknown]
)
def test_another_is_not_and_the_log_says_why(kernel, caplog):
    with caplog.at_level(logging.WARNING):
        assert not trusted(kernel, CPU, torch.bfloat16, 64)
        assert not trusted(kernel, CPU, torch.bfloat16, 64)
    assert len(caplog.records) == 1  # tried once
    assert "no such operator" in caplog.text if kernel is unknown else "differs from attention" in caplog.text


def test_the_trial_draws_nothing_and_works_without_gradients_or_under_autocast():
    trusted.cache_clear()
    state = torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert trusted(one_by_one, CPU, torch.bfloat16, 32)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_distrusted_kernel_is_not_handed_out(monkeypatch):
    monkeypatch.setattr(varlen, "trusted", lambda *_: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    given = torch.device("cuda:0"), torch.bfloat16, 64
    assert varlen.kernel_for(*given) is None
    monkeypatch.setattr(varlen, "trusted", lambda *_: True)
    assert varlen.kernel_for(*given) is varlen.flash


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_trial_may_fall_into_a_layer_that_is_computed_again(reentrant):
    """Gradient checkpointing counts what a layer keeps for its backward; the trial happens once only."""
    trusted.cache_clear()
    weight = torch.randn(3, requires_grad=True)

    def layer(hidden):
        assert trusted(one_by_one, CPU, torch.bfloat16, 32)
        return (hidden * weight).sin()

    hidden = torch.randn(3, requires_grad=True)
    checkpoint(layer, hidden, use_reentrant=reentrant).sum().backward()
    expected = torch.autograd.grad((hidden * weight).sin().sum(), (hidden, weight))
    assert torch.equal(hidden.grad, expected[0]) and torch.equal(weight.grad, expected[1])


def test_a_pass_that_is_computed_again_takes_the_same_kernel(monkeypatch):
    """Whatever is switched in between: it must keep the same tensors for its backward."""
    from tests.core.test_attention import shared_prefix

    shared, layout = shared_prefix()
    rows, size = layout.segment.shape
    tensors = torch.randn(3, rows, 2, size, 8)
    calls = []
    monkeypatch.setattr(varlen, "kernel_for", lambda *_: lambda *given: calls.append(1) or one_by_one(*given))
    first = shared.attend(*tensors)
    monkeypatch.setattr(varlen, "kernel_for", lambda *_: None)
    assert torch.equal(shared.attend(*tensors), first) and len(calls) == 2 * len(shared.problems)
