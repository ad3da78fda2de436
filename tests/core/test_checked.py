"""Two processes ask each other what to check at few calls, and each knows by itself at which."""

from __future__ import annotations

from datetime import timedelta
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aspo_plugin.logprobs import architectures, checked, response
from aspo_plugin.logprobs.pair_batch import PairBatch
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.logprobs.self_check import SelfCheckError
from tests.core.test_selfcheck import rejected_sees_chosen
from tests.core.test_shared_prefix import TOLERANCE, language_model, token_batch
from tests.core.test_trial import counted, odd
from tests.support.pairs import plain_logps


def collectives(call):
    """How many `call()` makes, and what it gives."""
    own, made = dist.all_reduce, []
    with patch.object(dist, "all_reduce", lambda *a, **k: made.append(1) or own(*a, **k)):
        found = call()
    return len(made), found


def other_prompts(inputs):
    """A pair whose prompts differ goes the plain way."""
    changed = inputs["input_ids"].clone()
    changed[0, 0] += 1
    return {**inputs, "input_ids": changed}


def run_refused(rank):
    """A model that a trial refuses, on one rank as soon as a batch could share."""
    model, logps, counts = odd(counted), ResponseLogProbs(), []
    with patch.object(architectures, "TEXT_MODELS", frozenset()):
        for step in range(12):
            inputs, wanted = token_batch(seed=2 * step + rank, prompt=(20, 21), response=(2, 4))
            inputs = other_prompts(inputs) if rank and step < 3 else inputs
            count, found = collectives(lambda inputs=inputs, wanted=wanted: logps(model, inputs, wanted))
            assert (found - plain_logps(model, inputs, wanted)).abs().max() <= TOLERANCE
            counts.append(count)
    assert counts == [1] * checked.FIRST + [0] * 4
    assert "pairs/shared" not in logps.report()


def run_listed(rank):
    """A vote and a verdict; the reference's and the policy's pass over a batch are two calls."""
    model, logps, counts = language_model("Llama"), ResponseLogProbs(), []
    for step in range(6):
        inputs, wanted = token_batch(seed=2 * step + rank)
        for again in (True, False):
            counts.append(collectives(lambda: logps(model, inputs, wanted, again=again))[0])  # noqa: B023
    assert counts == [2, *[1] * (checked.FIRST - 1), *[0] * (12 - checked.FIRST)]
    assert logps.report() == {"pairs/shared": 36} and logps.verdict.holds


def run_late_images(rank):
    """One rank has texts only, the other images from a call on: they go the plain way until a vote."""
    model, logps, counts, shared = language_model("Llama"), ResponseLogProbs(), [], []
    with (
        patch.object(checked, "FIRST", 2),
        patch.object(checked, "NOW_AND_THEN", 7),
        patch.object(response, "vision_towers", lambda model: [model]),
        patch.object(response, "has_images", lambda inputs: bool(inputs["attention_mask"][0, 0] == 2)),
    ):
        for call in range(1, 13):
            inputs, wanted = token_batch(seed=2 * call + rank)
            expected = plain_logps(model, inputs, wanted)
            if rank and call >= 4:
                inputs = {**inputs, "attention_mask": inputs["attention_mask"] * 2}
            count, found = collectives(lambda: logps(model, inputs, wanted))  # noqa: B023
            counts.append(count)
            shared.append(logps.shared)
            assert (found - expected).abs().max() <= TOLERANCE
    assert counts == [2, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0]
    assert shared == [not (rank and 4 <= call < 7) for call in range(1, 13)]
    assert any("waits for the self-check" in reason for reason in logps.report()) == bool(rank)


def run_no_memory(rank):
    """Laying out a batch takes memory too: both ranks hear of it at a vote, and later by the caller's."""
    model, logps = language_model("Llama"), ResponseLogProbs()
    logps.may_run_out = True
    own = PairBatch.__init__

    def limited(self, *given, **options):
        if rank:
            raise torch.OutOfMemoryError
        own(self, *given, **options)

    with patch.object(PairBatch, "__init__", limited), pytest.raises(torch.OutOfMemoryError):
        logps(model, *token_batch(seed=rank))
    assert collectives(lambda: logps(model, *token_batch(seed=rank)))[0] == 2
    assert logps.verdict.holds


def run_fault(rank):
    """What one rank sees stops both."""
    with pytest.MonkeyPatch.context() as changes:
        if rank:
            rejected_sees_chosen(changes)
        with pytest.raises(SelfCheckError):
            ResponseLogProbs()(language_model("Llama"), *token_batch(seed=rank))


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=60), rank=rank, world_size=2)
    for run in (run_refused, run_listed, run_late_images, run_no_memory, run_fault):
        run(rank)
        dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
