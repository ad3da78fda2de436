"""Log-probabilities of the response tokens, the only thing a preference loss needs from a model.

Logits exist at response positions only, a chunk at a time; nothing goes back through a frozen vision tower;
and where the architecture allows it a pair is one row that holds its image and prompt once. Every shortcut
that cannot be taken exactly is left for the plain way, which gives the same numbers; `report()` says how
often and why.
"""

from __future__ import annotations

import logging
import weakref
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.logprobs import self_check as checks
from aspo_plugin.logprobs.architectures import Architecture, Unlisted, describe
from aspo_plugin.logprobs.attention import route
from aspo_plugin.logprobs.checked import NOTHING, TEXT_ONLY, WITH_IMAGES, Checked
from aspo_plugin.logprobs.output_layer import HeadReader, Rows, output_head, read_logps, unwrap
from aspo_plugin.logprobs.pair_batch import PairBatch, has_images
from aspo_plugin.logprobs.trial import Trials
from aspo_plugin.logprobs.varlen import kernel_for
from aspo_plugin.logprobs.vision_tower import frozen_without_gradients, vision_towers

logger = logging.getLogger(__name__)

_WAITS = "it waits for the self-check, which all processes run together"


class ResponseLogProbs:
    """Per-token log-probs at response positions, for a policy and its reference alike.

    `shared_prefix`: 'auto' shares where that is proven exact, by our tests or by a trial on the first batches
    of a model that they do not know; 'true' raises for a model where it is not,
    'false' never does (see `AspoSettings`); a batch that does not allow it goes the plain way in each.
    `self_check`: compare the fast path with the plain one on the first batch that takes it, and on the first
    with images, and stop on a difference.
    `setting`: how the host's user writes `shared_prefix`, for messages.
    """

    def __init__(
        self, *, shared_prefix: str = "auto", self_check: bool = True, setting: str = "shared_prefix"
    ) -> None:
        self.shared_prefix = shared_prefix
        self._setting = setting
        self.fallbacks: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        # Whether the policy passed its image and prompt once per pair in the last batch; the reference, whose
        # batch comes `again`, may go another way.
        self.shared = False
        self.verdict: checks.Verdict | None = None
        # Whether the caller goes on, on every rank, after a batch for which one of them has no memory. Not
        # with a sharded model, whose other ranks wait for one that gives up in the middle of a forward.
        self.may_run_out = False
        self._checked = Checked(wanted=self_check)
        self._readers: weakref.WeakKeyDictionary[nn.Module, HeadReader] = weakref.WeakKeyDictionary()
        self._known: weakref.WeakKeyDictionary[nn.Module, Architecture | Unlisted | str] = (
            weakref.WeakKeyDictionary()
        )
        self._trials = Trials()
        self._last: tuple[weakref.ref[Tensor], PairBatch] | None = None

    def __call__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        response_mask: Tensor,
        *,
        again: bool = False,
    ) -> Tensor:
        """`log p(input_ids[b, t] | before)` where `response_mask[b, t]`, else 0: [2B, L] float32.

        `inputs` is what `model(**inputs)` takes, without labels; rows are `[chosen..., rejected...]`.
        Differentiable where grad is enabled. The first use of a batch copies its tokens to the host,
        the one synchronisation here; the reference's use of the same batch does not repeat it. `again`: the
        same batch comes once more, so what a frozen vision tower gives now is kept for then.

        Raises `ValueError` for inputs with labels, a row with no response token or with no token before
        it, and, with shared_prefix 'true', a model that cannot share; `SelfCheckError` (first batch).
        """
        batch: PairBatch | None = None
        try:
            batch = self._prepare(model, inputs, response_mask)
        except torch.OutOfMemoryError:
            if not self.may_run_out:
                raise
        # "Cannot share" is of the model, so the same on every rank.
        if not isinstance(self._architecture(model), str) and self._checked.votes_now():
            self._check(model, batch, response_mask.device)
        if batch is None:
            raise torch.OutOfMemoryError("no memory to lay out the batch")
        # Once for all passes over a batch: what a tower gave in one way is not what it gives in the other.
        batch.held = batch.held or not self._checked.covers(_kind(model, batch), batch.packs)
        return batch.scatter(self._read(model, batch, count=True, plain=batch.held, again=again))

    def report(self) -> dict[str, int]:
        """Counts since the start: pairs by path taken, calls by reason not to take a faster one."""
        return {**{f"pairs/{key}": n for key, n in self.pairs.items()}, **self.fallbacks}

    def why_not(self, model: nn.Module) -> str:
        """Why `model` cannot share a prefix; "" where it can, or where the first batch will tell."""
        known = self._architecture(model)
        return known if isinstance(known, str) else ""

    def _architecture(self, model: nn.Module) -> Architecture | Unlisted | str:
        if self.shared_prefix == "false":
            return "switched off (shared_prefix: false)"
        base = unwrap(model)
        if base not in self._known:
            self._known[base] = found = describe(model)
            if isinstance(found, Architecture):
                route(found.attention)
        known = self._known[base]
        if isinstance(known, str):
            self._insist(known)
        return known

    def _insist(self, reason: str) -> None:
        if self.shared_prefix == "true":
            raise ValueError(
                f"{self._setting} is true, but {reason}. Set it to auto, which goes the plain way here."
            )

    def _prepare(self, model: nn.Module, inputs: Mapping[str, Any], response_mask: Tensor) -> PairBatch:
        known = self._architecture(model)
        if isinstance(known, Unlisted):
            architecture = self._trials.architecture(model, known, inputs, response_mask, self.may_run_out)
            if reason := self._trials.refused(model):
                self._insist(reason)
        else:
            architecture = known
        if self._last is not None and self._last[0]() is response_mask:
            batch = self._last[1]
            # The policy and its reference may be models of two kinds; the layout serves one.
            if batch.architecture == architecture and batch.inputs["input_ids"] is inputs["input_ids"]:
                return batch
        # Of the model, so the same on every rank: one whose batch cannot share checks with the others.
        of_model = known.architecture if isinstance(known, Unlisted) else known
        packed = isinstance(of_model, Architecture) and self._packs(model, of_model, inputs)
        batch = PairBatch(model, inputs, response_mask, architecture, packed=packed)
        self._last = (weakref.ref(response_mask, self._forget), batch)
        return batch

    def _packs(self, model: nn.Module, architecture: Architecture, inputs: Mapping[str, Any]) -> bool:
        """Whether pairs go one behind the other in one row: where no kernel would look between them.

        What the model computes in is seen in its first forward; until then it is taken for its weights'.
        """
        if architecture.additive or architecture.compiled or not architecture.head_size:
            return False
        device = inputs["input_ids"].device
        return kernel_for(device, self._precision(model), architecture.head_size) is not None

    def _forget(self, _: Any) -> None:
        self._last = None

    def _read(
        self,
        model: nn.Module,
        batch: PairBatch,
        count: bool = False,
        plain: bool = False,
        again: bool = False,
    ) -> Tensor:
        shared = batch.layout is not None and not plain
        given = batch.shared if shared else batch.ordinary
        rows = batch.shared_rows if shared else batch.ordinary_rows
        outputs = batch.tower_outputs if count else None
        towers = frozen_without_gradients(vision_towers(model), outputs, again=again)
        logps, reason = self._forward(model, given, rows, towers)
        if count:
            if not again:
                batch.tower_outputs.clear()
            self.shared = self.shared if again else shared
            self.pairs["shared" if shared else "plain"] += len(batch.inputs["input_ids"]) // 2
            for text in (batch.reason, reason, _WAITS if batch.held else ""):
                if text:
                    self._explain(text)
        return logps

    def _forward(
        self, model: nn.Module, given: dict[str, Any], rows: Rows, towers: AbstractContextManager[None]
    ) -> tuple[Tensor, str]:
        with towers:
            return read_logps(model, {**given, "use_cache": False}, rows, self._readers)

    def _explain(self, reason: str) -> None:
        if not self.fallbacks[reason] and not reason.startswith("switched off"):
            logger.warning(
                "a batch goes the plain way, with the same result: %s (counted from here on)",
                reason,
            )
        self.fallbacks[reason] += 1

    def _check(self, model: nn.Module, batch: PairBatch | None, device: torch.device) -> None:
        """Before the pass that is trained: ZeRO-3 takes no other forward between that and its backward.

        `batch`: None on a rank without memory for it. Every rank votes in the same order, so none leaves
        before the others: raises `OutOfMemoryError` and `SelfCheckError` on all of them.
        """
        asked = self._checked.vote(
            _kind(model, batch) if batch else NOTHING,
            batch is not None and batch.packs,
            shares=not self._trials.refused(model),
            no_memory=batch is None,
            device=device,
        )
        if asked is None:
            raise torch.OutOfMemoryError("a rank has no memory to lay out a batch")
        if not asked:
            return
        assert batch is not None
        verdict = None
        try:
            verdict = self._judged(model, batch)
        except torch.OutOfMemoryError:
            if not self.may_run_out:
                raise
        fails = verdict is not None and not verdict.holds
        without, failed = checks.most_of_each([int(verdict is None), int(fails)], device)
        if without:
            raise torch.OutOfMemoryError("a rank has no memory for the self-check")
        self.verdict = verdict
        self._checked.passed(asked)
        if failed:
            raise checks.SelfCheckError(
                f"the shared prefix does not give this model's own log-probs on the first batch "
                f"({verdict}). Training would be wrong, so it stops here. Set {self._setting} to "
                f"false, and please report the model and the versions of torch and transformers."
            )

    @torch.no_grad()
    def _judged(self, model: nn.Module, batch: PairBatch) -> checks.Verdict:
        """Read only after the forwards, which all ranks must run together."""
        logps = self._read(model, batch)
        plain = self._read(model, batch, plain=True)
        rows, given = batch.padded()
        towers = frozen_without_gradients(vision_towers(model))
        precision = self._precision(model)
        with checks.nudge(model, precision):
            other, _ = self._forward(model, given, rows, towers)
        return checks.judge(logps, plain, other, precision)

    def _precision(self, model: nn.Module) -> torch.dtype:
        """What the last forward computed in: the sums of products, not the weights they were made of."""
        head = output_head(model)
        seen = self._readers[head].precision if head in self._readers else None
        return seen or checks.weight_dtype(model)


def _kind(model: nn.Module, batch: PairBatch) -> int:
    """What the self-check would see in `batch`."""
    if batch.layout is None:
        return NOTHING
    return WITH_IMAGES if has_images(batch.inputs) or not vision_towers(model) else TEXT_ONLY
