"""Filling a reference cache before training, and checking it against the live reference."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_plugin.logprobs.self_check import ROUNDING_FACTOR, any_rank, distributed
from aspo_plugin.reference_cache.store import ReferenceCache, ReferenceCacheError

Compute = Callable[[], Tensor]

# Seconds until a file that another machine wrote is seen: NFS keeps what it knows of a folder for up to 60.
PATIENCE = 75.0


@dataclass
class FillReport:
    """Rows computed and rows found, on this rank."""

    computed: int = 0
    found: int = 0


@torch.no_grad()
def fill(
    cache: ReferenceCache,
    batches: Iterable[tuple[Sequence[bytes], Tensor, Compute]],
    *,
    precision: torch.dtype,
    device: torch.device,
    dataset: str,
) -> FillReport:
    """Make `cache` hold every row of `batches`, each `(keys, response_mask, compute)`.

    `compute()` gives the reference's log-probs [2B, L] of the batch. It runs for the first batch and for
    every batch with a row that any rank misses, so that ranks of a sharded model stay together. The first
    batch checks what the cache already holds; where `dataset` is known to be complete, it is the only one
    looked at. Raises `ReferenceCacheError` where the stored values are not the reference's, and where ranks
    do not see each other's files.
    """
    _refuse_unshared(cache, device)
    report = FillReport()
    complete = not any_rank(not cache.is_complete(dataset), device)
    for number, (keys, response_mask, compute) in enumerate(batches):
        missing = any(key not in cache for key in keys)
        if number == 0 or any_rank(missing, device):
            logps = compute()
            _compare(cache, keys, logps, response_mask, precision)
            cache.store(keys, logps, response_mask)
        report.computed += len(keys) if missing else 0
        report.found += 0 if missing else len(keys)
        if complete and not any_rank(missing, device):
            break
        complete = False
    cache.to_disk()
    _wait()
    cache.refresh()
    cache.mark_complete(dataset)
    return report


def _compare(
    cache: ReferenceCache,
    keys: Sequence[bytes],
    logps: Tensor,
    response_mask: Tensor,
    precision: torch.dtype,
) -> None:
    known = [row for row, key in enumerate(keys) if key in cache]
    if not known:
        return
    mask = response_mask[known]
    stored = cache.lookup([keys[row] for row in known], mask)
    assert stored is not None
    live, stored = logps[known][mask], stored[mask]
    difference = float((live - stored).square().mean().sqrt())
    # Other batches round otherwise, by up to half of this in bfloat16; other weights differ by far more.
    limit = 8 * ROUNDING_FACTOR * torch.finfo(precision).eps * max(1.0, float(live.square().mean().sqrt()))
    if not difference <= limit:
        raise ReferenceCacheError(
            f"the reference cache in {cache.folder} is stale: it differs from the reference model by "
            f"{difference:.2e} per token (limit {limit:.2e}). Delete the folder, and it is filled anew."
        )


def _refuse_unshared(cache: ReferenceCache, device: torch.device) -> None:
    """Raise `ReferenceCacheError` where the folder is another one on another machine.

    Each rank would then hold its own rows only, and miss others as soon as an epoch deals them anew.
    """
    if not distributed():
        return
    token = secrets.randbits(62)
    tokens = torch.zeros(torch.distributed.get_world_size(), dtype=torch.int64, device=device)
    tokens[torch.distributed.get_rank()] = token
    own = cache.folder / f"{token:x}.rank"
    own.touch()
    try:
        torch.distributed.all_reduce(tokens)
        wanted = [cache.folder / f"{value:x}.rank" for value in tokens.tolist()]
        end = time.monotonic() + PATIENCE
        while not (seen := all(path.exists() for path in wanted)) and time.monotonic() < end:
            time.sleep(0.5)
        unshared = any_rank(not seen, device)  # only now has every rank looked
    finally:
        own.unlink(missing_ok=True)
    if unshared:
        raise ReferenceCacheError(
            f"the folder of the reference cache, {cache.folder}, must be shared by all machines: what one "
            "process writes there, another does not see. Name a folder of a file system that every machine "
            "mounts, or drop the reference cache."
        )


def _wait() -> None:
    if distributed():
        torch.distributed.barrier()
