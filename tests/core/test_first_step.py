"""A run that claims to start from its reference is believed within rounding, and no further."""

from __future__ import annotations

import logging

import pytest
import torch

from aspo_plugin.training.first_step import ROUNDING, SEVERAL, FirstStepError, check_first_step


def logps(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand((4, 30), generator=generator) > 0.4
    values = -torch.rand((4, 30), generator=generator)
    return torch.where(mask, values, 0.0).to(dtype), mask


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize(("times", "outcome"), [(0.0, 0), (0.5, 0), (2.0, 1), (2 * SEVERAL, 2)])
def test_rounding_a_warning_or_the_end(precision, times, outcome, caplog):
    reference, mask = logps()
    policy = (reference + times * ROUNDING[precision]).requires_grad_()
    with caplog.at_level(logging.WARNING):
        if outcome == 2:
            with pytest.raises(FirstStepError, match=r"differ by .* per token.*PiSSA.*Change that\."):
                check_first_step(policy, reference, mask, precision, "Change that.")
            caplog.clear()
            check_first_step(policy, reference, mask, precision, "Change that.", stop=False)
        else:
            check_first_step(policy, reference, mask, precision, "Change that.")
    assert len(caplog.records) == min(outcome, 1)


def test_only_the_responses_count():
    reference, mask = logps()
    check_first_step(torch.where(mask, reference, -50.0), reference, mask, torch.float32, "")


def test_no_number_is_no_agreement():
    reference, mask = logps()
    with pytest.raises(FirstStepError):
        check_first_step(reference * torch.nan, reference, mask, torch.float32, "")


def test_large_log_probs_round_in_proportion():
    reference, mask = logps()
    large = 1000 * reference
    check_first_step(large * 1.001, large, mask, torch.float32, "")
