"""The flash kernel is tried once on the card at hand; one that fails or differs is not used, and logged."""

from __future__ import annotations

import dataclasses
import logging

import pytest
import torch

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
