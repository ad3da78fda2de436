"""A trainer's reference log-probs from a cache, for every trainer built on that of `transformers`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from aspo_plugin.logprobs.self_check import any_rank
from aspo_plugin.reference_cache.fill import FillReport, fill
from aspo_plugin.reference_cache.keys import KEYS
from aspo_plugin.reference_cache.store import ReferenceCache, ReferenceCacheError
from aspo_plugin.training.first_step import training_precision
from aspo_plugin.training.randomness import same_randomness
from aspo_plugin.training.reference import Live, WithoutAdapter

logger = logging.getLogger(__name__)

# Pairs at a time, against those of training: a pass without gradients keeps nothing for a backward pass.
LARGER = 8


class CachedReference(TrainerCallback):
    """A `Reference` on disk. It is filled when training begins, from a live one; until then that answers.

    `split(batch)`: (inputs of the model, response mask [2B, L]) of a batch as the trainer's collator makes
    it. `live`: the reference, computed; one that does not last is asked before the first step only.
    """

    lasts = True

    def __init__(
        self,
        trainer: Any,
        folder: str,
        fingerprint: Mapping[str, str],
        split: Callable[[Mapping[str, Any]], tuple[dict[str, Any], Tensor]],
        live: Live,
    ) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._trainer, self._split = trainer, split
        self._live: Live | None = live  # until the cache is filled
        # Costs no memory and stays the reference: a set that was not there to be filled is evaluated by it.
        self._beside = live if isinstance(live, WithoutAdapter) else None

    @cached_property
    def cache(self) -> ReferenceCache:
        """Opened when training begins: where only evaluation runs, the reference may be another model.

        Raises `ReferenceCacheError` as `ReferenceCache.open` does.
        """
        return ReferenceCache.open(self._folder, self._fingerprint)

    def logps(
        self,
        policy: Any,
        inputs: dict[str, Any],
        response_mask: Tensor,
        keys: Sequence[bytes] = (),
        *,
        again: bool = False,
    ) -> Tensor:
        """As `Reference.logps`. Raises `ReferenceCacheError` where the filled cache lacks a row.

        In an evaluation of an adapter the model without it computes such rows instead.
        """
        if self._live is not None:
            return self._live.logps(policy, inputs, response_mask, again=again)
        found = self.cache.lookup(keys, response_mask)
        if found is None:  # a folder on a network may show late what another machine wrote
            self.cache.refresh()
            found = self.cache.lookup(keys, response_mask)
        device = response_mask.device
        if self._beside is not None and not policy.training and any_rank(found is None, device):
            return self._beside.logps(policy, inputs, response_mask, again=again)
        if found is None:
            raise ReferenceCacheError(
                f"a batch has rows that the reference cache in {self.cache.folder} lacks, though it was "
                "filled when training began: the data gives other tokens or media each time (augmentation, "
                "another evaluation set), or the folder lost files that another machine wrote. Make the data "
                "repeatable, share the folder among all machines, or drop the reference cache."
            )
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer, live = self._trainer, self._live
        if live is None:  # filled and trained before
            return
        loaders = {"training": (trainer.train_dataset, trainer.get_train_dataloader)}
        # Also where only a later `evaluate()` reads it: there may be no reference any more by then.
        evaluation = trainer.eval_dataset
        if isinstance(evaluation, dict):
            for name in evaluation:
                key = f"evaluation ({name})"
                loaders[key] = (evaluation[name], lambda name=name: trainer.get_eval_dataloader(name))
        elif evaluation is not None:
            loaders["evaluation"] = (evaluation, trainer.get_eval_dataloader)
        if state.global_step > 0 and not live.lasts:
            evaluates = args.do_eval or args.eval_strategy != "no"
            self._check_complete({n: part for n, part in loaders.items() if evaluates or n == "training"})
            self._live = None
            return
        for name, (dataset, loader) in loaders.items():
            report = self._fill(args, dataset, loader, live)
            logger.info("reference cache, %s set: %s rows computed, %s found", name, *vars(report).values())
        self._live = None
        if hasattr(trainer, "ref_model"):
            trainer.ref_model = None  # a model of its own was needed for the filling only

    def _fill(self, args: Any, dataset: Any, loader: Callable[[], Any], live: Live) -> FillReport:
        """With larger batches than training's; with those of training where that runs out of memory."""
        trainer = self._trainer
        # One process that gives up in the middle of a sharded forward would leave the others waiting.
        sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
        for times in (1,) if sharded else (LARGER, 1):
            live.read.may_run_out = times > 1
            try:
                with same_randomness(), _loaders(trainer, args, times):
                    found: FillReport = fill(
                        self.cache,
                        self._batches(loader(), live),
                        precision=training_precision(trainer),
                        device=trainer.accelerator.device,
                        dataset=_identity(dataset),
                    )
                    return found
            except _OutOfMemory:
                logger.warning("no memory for larger batches: the reference cache is filled with training's")
                torch.cuda.empty_cache()
            finally:
                live.read.may_run_out = False
        raise AssertionError("unreachable")

    def _check_complete(self, loaders: Mapping[str, tuple[Any, Any]]) -> None:
        missing = [n for n, (dataset, _) in loaders.items() if not self.cache.is_complete(_identity(dataset))]
        if missing:
            raise ReferenceCacheError(
                f"the reference cache in {self.cache.folder} is not complete for the {', '.join(missing)} "
                "set, and this run resumes after the first step, with weights that are no reference. "
                "Begin the training anew, or resume with the data it was begun with."
            )

    def _batches(self, loader: Any, live: Live) -> Iterator[tuple[list[bytes], Tensor, Callable[[], Tensor]]]:
        """Raises `_OutOfMemory`, on every rank, where one of them may run out of memory and does."""
        trainer, may_run_out = self._trainer, live.read.may_run_out
        model = trainer.model_wrapped
        if isinstance(model, DistributedDataParallel):
            # Its forward exchanges buffers: a rank without memory would leave the others waiting there.
            model = model.module
        for batch in loader:
            keys = batch.pop(KEYS)
            inputs, mask = self._split(trainer._prepare_inputs(batch))

            def compute(inputs: dict[str, Any] = inputs, mask: Tensor = mask) -> Tensor:
                logps = None
                try:
                    with trainer.compute_loss_context_manager():
                        logps = live.logps(model, inputs, mask)
                except torch.OutOfMemoryError:
                    if not may_run_out:
                        raise
                if may_run_out and any_rank(logps is None, mask.device):
                    raise _OutOfMemory
                assert logps is not None
                return logps

            yield keys, mask, compute


class _OutOfMemory(RuntimeError):
    """A batch of the filling does not fit."""


@contextmanager
def _loaders(trainer: Any, args: Any, times: int) -> Iterator[None]:
    """Loaders made while open give batches `times` as large and leave out no row, and no one keeps them.

    Later epochs may need what the first drops. Relies on the Trainer's `_train_batch_size`.
    """
    changed = [
        (args, "dataloader_drop_last", False),
        (args, "dataloader_persistent_workers", False),
        (args, "per_device_eval_batch_size", args.per_device_eval_batch_size * times),
        (trainer, "_train_batch_size", trainer._train_batch_size * times),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, value in changed:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def _identity(dataset: Any) -> str:
    """Of a dataset's rows, as `datasets` knows them; a set without one is never taken as complete."""
    mark = getattr(dataset, "_fingerprint", None) or f"unknown {id(dataset)}"
    return f"{mark} {len(dataset) if hasattr(dataset, '__len__') else 'unknown'}"
