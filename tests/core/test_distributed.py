"""Two gloo processes: log-probs and gradients under DDP and `fully_shard` are those of one process."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from aspo_plugin.logprobs import architectures
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.reference_cache import fill as filling
from aspo_plugin.reference_cache.fill import fill
from aspo_plugin.reference_cache.keys import KEYS, media_digest, row_keys
from aspo_plugin.reference_cache.store import ReferenceCache, ReferenceCacheError
from aspo_plugin.training.cached_reference import CachedReference
from aspo_plugin.training.reference import UntrainedPolicy
from tests.core.test_shared_prefix import TOLERANCE, language_model, token_batch
from tests.support.pairs import plain_logps

CASES = {
    "ddp": {},
    "ddp, tied": {"tie_word_embeddings": True},
    "ddp, capped": {"final_logit_softcapping": 2.0},
    "fsdp": {},
    "fsdp, tied": {"tie_word_embeddings": True},
    "fsdp, head apart": {},
    "fsdp, capped": {"final_logit_softcapping": 2.0},
    "fsdp, lora": {},
}


def model_of(case):
    if "capped" in case:
        return language_model("Gemma2", **CASES[case], query_pre_attn_scalar=8, sliding_window=5)
    model = language_model("Llama", **CASES[case])
    if "lora" in case:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], r=4))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


def wrapped(case, model):
    if case.startswith("ddp"):
        return DistributedDataParallel(model)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in base.model.layers:
        fully_shard(layer, mesh=mesh)
    if "apart" in case:
        fully_shard(base.lm_head, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def loss_of(logps, wanted):
    weights = torch.linspace(-1, 1, wanted.numel()).view(wanted.shape)
    return (logps * weights).sum()


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def run_case(case, rank):
    expected_model = model_of(case)
    model = wrapped(case, copy.deepcopy(expected_model))
    batches = [token_batch(seed=seed) for seed in range(2)]
    # One rank's pairs can share their prompts, the other's in the second batch cannot.
    broken = {**batches[1][0], "input_ids": batches[1][0]["input_ids"].clone()}
    broken["input_ids"][0, 0] += 1
    for inputs, wanted in (batches[rank], (broken, batches[1][1]) if rank else batches[0]):
        logps = ResponseLogProbs()
        for _ in range(2):  # the second call no longer probes the head
            model.zero_grad()
            found = logps(model, inputs, wanted)
            loss_of(found, wanted).backward()
        reference = plain_logps(expected_model, inputs, wanted)
        assert (found - reference).abs().max() <= TOLERANCE, case
        expected_model.zero_grad()
        loss_of(reference, wanted).backward()
        for (name, parameter), got in zip(expected_model.named_parameters(), model.parameters(), strict=True):
            if parameter.grad is None:
                continue
            mean = parameter.grad.clone()
            dist.all_reduce(mean)
            mean /= 2
            gradient = whole(got.grad)
            assert (gradient - mean).norm() <= TOLERANCE * (mean.norm() + 1), (case, name)
    with torch.no_grad():
        assert (logps(model, inputs, wanted) - reference).abs().max() <= TOLERANCE, case


def run_unlisted(wrapping, rank):
    """A model that nobody listed: one rank's first batch cannot share, so that rank tries a copy later.

    Pairs are asked to stand in one row, as on GPUs. Both ranks check themselves at the same steps, or hang.
    """
    local = language_model("Llama")
    model = wrapped(wrapping, copy.deepcopy(local))
    logps = ResponseLogProbs()
    for step in range(3):
        inputs, wanted = token_batch(seed=2 * step + rank)
        if rank and not step:
            inputs = {**inputs, "input_ids": inputs["input_ids"].clone()}
            inputs["input_ids"][0, 0] += 1
        model.zero_grad()
        found = logps(model, inputs, wanted)
        loss_of(found, wanted).backward()
        assert (found - plain_logps(local, inputs, wanted)).abs().max() <= TOLERANCE
    assert logps.report()["pairs/shared"] == (6 if rank else 9)


def run_fill(folder, rank):
    """Each rank's rows end up in what both read; ranks miss different rows and still run together."""
    model = wrapped("fsdp", language_model("Llama"))
    calls = []

    def batches(seeds):
        for seed in seeds:
            inputs, wanted = token_batch(seed=seed)
            keys = row_keys(inputs["input_ids"], inputs["attention_mask"], wanted, [media_digest()] * 6)
            logps = ResponseLogProbs(self_check=False)

            def compute(inputs=inputs, wanted=wanted, logps=logps, seed=seed):
                calls.append(seed)
                return logps(model, inputs, wanted)

            yield keys, wanted, compute

    options = {"precision": torch.float32, "device": torch.device("cpu")}
    cache = ReferenceCache.open(folder, {"model": "a"})
    fill(cache, batches([0, 1] if rank == 0 else [2, 3]), dataset="first", **options)
    assert len(cache) == 4 * 6
    calls.clear()
    fill(cache, batches([3, 0, 1] if rank == 0 else [1, 2, 7]), dataset="second", **options)
    assert calls == ([3, 1] if rank == 0 else [1, 7])
    assert len(cache) == 5 * 6
    local = language_model("Llama")
    for seed in (0, 1, 2, 3, 7):
        for keys, wanted, _ in batches([seed]):
            expected = plain_logps(local, token_batch(seed=seed)[0], wanted)
            assert (cache.lookup(keys, wanted) - expected).abs().max() <= TOLERANCE


def run_fill_apart(folder, rank):
    """A folder of its own for each rank, as on machines that share none: nothing is computed or complete."""
    cache = ReferenceCache.open(folder, {"model": "a"})
    inputs, wanted = token_batch(seed=rank)
    keys = row_keys(inputs["input_ids"], inputs["attention_mask"], wanted, [media_digest()] * 6)
    values = torch.where(wanted, -torch.rand(wanted.shape), 0.0)
    batches = [(keys, wanted, lambda: values)]
    options = {"precision": torch.float32, "device": torch.device("cpu"), "dataset": "train"}
    filling.PATIENCE = 0
    with pytest.raises(ReferenceCacheError, match=rf"{folder}, must be shared by all machines"):
        fill(cache, batches, **options)
    assert not cache.is_complete("train") and len(cache) == 0
    assert [path.name for path in Path(folder).iterdir()] == ["meta.json"]


def run_fill_without_memory(folder, rank):
    """One rank has no memory for the self-check of a large batch: all fill with small ones.

    Not through DDP, whose forward exchanges buffers: a rank that has left would be waited for there.
    """
    model = language_model("Llama")
    args = SimpleNamespace(
        dataloader_drop_last=False, dataloader_persistent_workers=False, per_device_eval_batch_size=1,
        do_eval=False, eval_strategy="no", bf16=False, fp16=False,
    )  # fmt: skip
    sizes, forwards = [], []

    def loader():
        forwards.clear()
        sizes.append(trainer._train_batch_size)
        for seed in (2 * rank, 2 * rank + 1):
            inputs, wanted = token_batch(seed=seed)
            keys = row_keys(inputs["input_ids"], inputs["attention_mask"], wanted, [media_digest()] * 6)
            yield {**inputs, "wanted": wanted, KEYS: keys}

    def limited(*_):
        forwards.append(1)
        if rank == 1 and trainer._train_batch_size > 1 and len(forwards) == 2:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(limited)
    wrapped = DistributedDataParallel(model)
    through_ddp = []
    wrapped.register_forward_pre_hook(lambda *_: through_ddp.append(1))
    trainer = SimpleNamespace(
        args=args, model=model, model_wrapped=wrapped, _train_batch_size=1,
        train_dataset=[0] * 12, eval_dataset=None, get_train_dataloader=loader, _prepare_inputs=dict,
        compute_loss_context_manager=nullcontext,
        accelerator=SimpleNamespace(device=torch.device("cpu"), mixed_precision="no"),
        is_deepspeed_enabled=False, is_fsdp_enabled=False,
    )  # fmt: skip
    read = ResponseLogProbs()
    reference = CachedReference(
        trainer,
        folder,
        {"model": "a"},
        lambda batch: ({k: v for k, v in batch.items() if k != "wanted"}, batch["wanted"]),
        UntrainedPolicy(read),
    )
    reference.on_train_begin(args, SimpleNamespace(global_step=0), None)
    assert sizes == [8, 1] and len(reference.cache) == 4 * 6
    assert len(forwards) == 3 + 2 and not through_ddp  # the self-check's three, and one for each batch
    assert read.verdict is not None and read.verdict.holds


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", timedelta(seconds=120), rank=rank, world_size=2)
    for case in CASES:
        run_case(case, rank)
    run_fill(f"{folder}/cache", rank)
    run_fill_without_memory(f"{folder}/memory", rank)
    run_fill_apart(f"{folder}/apart{rank}", rank)
    with (
        patch.object(architectures, "TEXT_MODELS", frozenset()),
        patch.object(ResponseLogProbs, "_packs", lambda *given: True),
    ):
        for wrapping in ("ddp", "fsdp"):
            run_unlisted(wrapping, rank)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
def test_two_processes(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
