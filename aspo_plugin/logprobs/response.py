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
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.logprobs import self_check as checks
from aspo_plugin.logprobs.architectures import Architecture, describe
from aspo_plugin.logprobs.output_layer import HeadReader, Rows, output_head, read_logps, unwrap
from aspo_plugin.logprobs.shared_prefix import (
    IMAGE_INPUTS,
    IMAGES_ONCE,
    UNUSED_INPUTS,
    Layout,
    images_once,
    images_twice,
    ordinary_rows,
    plan,
    shared_inputs,
    to_layout,
    unfit,
)
from aspo_plugin.logprobs.vision_tower import frozen_without_gradients, vision_towers

logger = logging.getLogger(__name__)

# Kinds of batches that the self-check looks at; the later one says all that the earlier says.
TEXT_ONLY, WITH_IMAGES = 1, 2


class ResponseLogProbs:
    """Per-token log-probs at response positions, for a policy and its reference alike.

    `shared_prefix`: 'auto' shares where that is proven exact, 'true' raises for a model where it is not,
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
        self.shared = False  # whether the last batch passed its image and prompt once per pair
        self.verdict: checks.Verdict | None = None
        self._checked = TEXT_ONLY - 1 if self_check else WITH_IMAGES
        self._readers: weakref.WeakKeyDictionary[nn.Module, HeadReader] = weakref.WeakKeyDictionary()
        self._known: weakref.WeakKeyDictionary[nn.Module, Architecture | str] = weakref.WeakKeyDictionary()
        self._last: tuple[weakref.ref, _Batch] | None = None

    def __call__(self, model: nn.Module, inputs: Mapping[str, Any], response_mask: Tensor) -> Tensor:
        """`log p(input_ids[b, t] | before)` where `response_mask[b, t]`, else 0: [2B, L] float32.

        `inputs` is what `model(**inputs)` takes, without labels; rows are `[chosen..., rejected...]`.
        Differentiable where grad is enabled. The first use of a batch copies its tokens to the host,
        the one synchronisation here; the reference's use of the same batch does not repeat it.

        Raises `ValueError` for inputs with labels, a row with no response token or with no token before
        it, and, with shared_prefix 'true', a model that cannot share; `SelfCheckError` (first batch).
        """
        batch = self._prepare(model, inputs, response_mask)
        if self._checked < WITH_IMAGES:
            self._check(model, batch)
        return batch.scatter(self._read(model, batch, count=True))

    def report(self) -> dict[str, int]:
        """Counts since the start: pairs by path taken, calls by reason not to take a faster one."""
        return {**{f"pairs/{key}": n for key, n in self.pairs.items()}, **self.fallbacks}

    def why_not(self, model: nn.Module) -> str:
        """Why `model` cannot share a prefix, or "": to tell a user before training starts."""
        known = self._architecture(model)
        return known if isinstance(known, str) else ""

    def _architecture(self, model: nn.Module) -> Architecture | str:
        if self.shared_prefix == "false":
            return "switched off (shared_prefix: false)"
        base = unwrap(model)
        if base not in self._known:
            self._known[base] = describe(base)
        known = self._known[base]
        if isinstance(known, str) and self.shared_prefix == "true":
            raise ValueError(
                f"{self._setting} is true, but {known}. Set it to auto, which goes the plain way here."
            )
        return known

    def _prepare(self, model: nn.Module, inputs: Mapping[str, Any], response_mask: Tensor) -> _Batch:
        architecture = self._architecture(model)
        if self._last is not None and self._last[0]() is response_mask:
            batch = self._last[1]
            # The policy and its reference may be models of two kinds; the layout serves one.
            if batch.architecture == architecture and batch.inputs["input_ids"] is inputs["input_ids"]:
                return batch
        batch = _Batch(model, inputs, response_mask, architecture)
        self._last = (weakref.ref(response_mask, self._forget), batch)
        return batch

    def _forget(self, _: Any) -> None:
        self._last = None

    def _read(self, model: nn.Module, batch: _Batch, count: bool = False, plain: bool = False) -> Tensor:
        shared = batch.layout is not None and not plain
        given = batch.shared if shared else batch.ordinary
        rows = batch.shared_rows if shared else batch.ordinary_rows
        logps, reason = self._forward(model, given, rows)
        if count:
            self.shared = shared
            self.pairs["shared" if shared else "plain"] += len(batch.inputs["input_ids"]) // 2
            for text in (batch.reason, reason):
                if text:
                    self._explain(text)
        return logps

    def _forward(self, model: nn.Module, given: dict[str, Any], rows: Rows) -> tuple[Tensor, str]:
        with frozen_without_gradients(vision_towers(model)):
            return read_logps(model, {**given, "use_cache": False}, rows, self._readers)

    def _explain(self, reason: str) -> None:
        if not self.fallbacks[reason] and not reason.startswith("switched off"):
            logger.warning(
                "a batch goes a slower way, with the same result: %s (counted from here on)", reason
            )
        self.fallbacks[reason] += 1

    def _check(self, model: nn.Module, batch: _Batch) -> None:
        """Before the pass that is trained: ZeRO-3 takes no other forward between that and its backward."""
        device = batch.inputs["input_ids"].device
        if isinstance(batch.architecture, str):  # of the model, so the same on every rank
            self._checked = WITH_IMAGES
            return
        kind = 0
        if batch.layout is not None:
            kind = WITH_IMAGES if _has_images(batch.inputs) or not vision_towers(model) else TEXT_ONLY
        kind = checks.most_of_ranks(kind, device)
        if kind <= self._checked:
            return
        self._checked = kind
        with torch.no_grad():
            logps = self._read(model, batch)
            plain = self._read(model, batch, plain=True)
            rows, given = batch.padded()
            other, _ = self._forward(model, given, rows)
        precision = self._precision(model)
        # Every rank reads its verdict only after the forwards, which all ranks must run together.
        self.verdict = checks.judge(logps, plain, other, precision)
        if checks.any_rank(not self.verdict.holds, device):
            raise checks.SelfCheckError(
                f"the shared prefix does not give this model's own log-probs on the first batch "
                f"({self.verdict}). Training would be wrong, so it stops here. Set {self._setting} to "
                f"false, and please report the model and the versions of torch and transformers."
            )

    def _precision(self, model: nn.Module) -> torch.dtype:
        """What the last forward computed in: the sums of products, not the weights they were made of."""
        head = output_head(model)
        seen = self._readers[head].precision if head in self._readers else None
        return seen or checks.weight_dtype(model)


class _Batch:
    """One batch, its plan, and its inputs in both layouts (the shared ones made when first needed)."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        response_mask: Tensor,
        architecture: Architecture | str,
    ) -> None:
        input_ids = inputs["input_ids"]
        if "labels" in inputs:
            raise ValueError("inputs holds labels: the model would compute a loss over all tokens; drop them")
        if response_mask.shape != input_ids.shape:
            raise ValueError(
                f"response_mask is {tuple(response_mask.shape)}, input_ids {tuple(input_ids.shape)}"
            )
        self.inputs, self.architecture = inputs, architecture
        self.shape = (input_ids.shape[0], input_ids.shape[1])
        attended = inputs.get("attention_mask")
        if attended is None:
            attended = torch.ones_like(input_ids)
        tokens, seen, wanted = torch.stack([input_ids, attended.long(), response_mask.long()]).cpu().numpy()
        seen, wanted = seen.astype(bool), wanted.astype(bool)
        predictor, place = ordinary_rows(wanted)
        both = torch.stack([torch.from_numpy(predictor), torch.from_numpy(place)]).to(input_ids.device)
        self.place = both[1]
        self.ordinary_rows = Rows(both[0], input_ids.flatten()[both[1]], self.shape)
        self.layout: Layout | None = None
        self.reason = architecture if isinstance(architecture, str) else ""
        if isinstance(architecture, Architecture):
            self.reason = unfit(inputs, architecture, int(seen.sum(1).max()))
        if not self.reason:
            # Masked attention kernels on GPUs want lengths that are multiples of 8.
            arrays = plan(tokens, seen, wanted, multiple=8 if input_ids.is_cuda else 1)
            if isinstance(arrays, str):
                self.reason = arrays
            elif IMAGES_ONCE not in (single := images_once(dict(inputs))) and _has_images(inputs):
                self.reason = "the images of chosen and rejected differ"
            else:
                assert isinstance(architecture, Architecture)
                self.layout = to_layout(arrays, input_ids.device)
                self.shared_rows = self.layout.rows(input_ids)
                self.shared = shared_inputs(model, single, self.layout, architecture)

    @property
    def ordinary(self) -> dict[str, Any]:
        return {k: v for k, v in images_twice(self.inputs).items() if k not in UNUSED_INPUTS}

    def padded(self) -> tuple[Rows, dict[str, Any]]:
        """The ordinary rows with more padding, for the self-check."""
        rows, length = self.ordinary_rows, self.shape[1]
        wider = length + checks.PADDING
        index = rows.index // length * wider + rows.index % length
        inputs = checks.more_padding(self.ordinary, length)
        return Rows(index, rows.targets, (self.shape[0], wider)), inputs

    def scatter(self, logps: Tensor) -> Tensor:
        flat = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.float32, device=logps.device)
        return flat.index_put((self.place.to(logps.device),), logps).view(self.shape)


def _has_images(inputs: Mapping[str, Any]) -> bool:
    return any(key in IMAGE_INPUTS for key in inputs)
