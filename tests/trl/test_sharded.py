"""Two gloo processes of which one meets a batch with images and the other, at the same time, one without."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from aspo_plugin.logprobs.pair_batch import PLACEHOLDER
from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.trl.collator import AspoVisionCollator
from aspo_plugin.trl.datasets import prepare_dataset
from tests.support import backbones, data

from .conftest import as_dataset

OURS = ("completion_mask", "sentence_ids", "similarity")


def wrapped(kind: str, model: Any) -> Any:
    """Every layer, of the vision tower too, sharded by FSDP2; or DDP as it is where gradients are
    checkpointed: without a search for weights that got no gradient."""
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for name, module in model.named_modules():
        if name.rpartition(".")[2].isdigit():  # a layer of a stack
            fully_shard(module, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def logps_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    inputs = {key: value for key, value in batch.items() if key not in OURS}
    mask = batch["completion_mask"].bool()
    logps = ResponseLogProbs()
    values = logps(model, inputs, mask)
    assert logps.report()["pairs/plain" if PLACEHOLDER in batch else "pairs/shared"] == 1
    return (values[mask] * torch.linspace(-1, 1, int(mask.sum()))).sum()


def work(rank: int, folder: str, kind: str, network: Any, batches: Any, expected: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = wrapped(kind, copy.deepcopy(network))
    for _ in range(2):  # the second pass no longer checks itself
        model.zero_grad()
        logps_of(model, batches[rank]).backward()
    found = dict((model.module if kind == "ddp" else model).named_parameters())
    assert found.keys() >= expected.keys()
    for name, parameter in found.items():
        gradient = parameter.grad
        if name not in expected:
            assert gradient is None
            continue
        gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5, msg=f"{rank} {name}")
    dist.barrier()
    dist.destroy_process_group()


# Of the last one's name nothing is known: each process tries a small copy.
@pytest.mark.parametrize("kind", ["fsdp2", "ddp"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", *(n for n in ("ovis2",) if n in backbones.today())])
def test_gradients_are_those_of_one_process(
    name: str, kind: str, processing: Any, model: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageTextToText

    network = AutoModelForImageTextToText.from_pretrained(model(name), dtype=torch.float32).eval()
    processor = processing(name)
    rows = [*data.rows(1, 1, sentences=3), *data.rows(1, 2, sentences=3, text_only=True)]
    prepared = prepare_dataset(as_dataset(rows), processor, alpha=0.5)
    plain, blank = AspoVisionCollator(processor), AspoVisionCollator(processor)
    blank.use_placeholder()
    network.zero_grad()
    # Half of each: DDP and FSDP average over processes.
    sum(0.5 * logps_of(network, plain([row])) for row in prepared).backward()
    expected = {}
    for key, value in network.named_parameters():
        # A LLaVA drops the output of its tower's last layer, which DDP would wait for with images too.
        value.requires_grad_(value.grad is not None)
        if value.grad is not None:
            expected[key] = value.grad.clone()
    network.zero_grad()
    assert any("vision" in key or "visual" in key for key in expected)
    batches = [blank([row]) for row in prepared]
    mp.start_processes(work, (str(tmp_path), kind, network, batches, expected), nprocs=2, start_method="fork")
