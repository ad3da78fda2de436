"""Architectures that nobody listed: does a small copy of the model share a prefix exactly?

Bounds in bfloat16 are too wide to prove that, so a copy with few layers computes in float32, on the run's own
batch: hidden states of the response tokens and gradients, as one row per pair, as one row of all pairs and as
ordinary rows, with either response first and with longer prompts. What was tried holds for batches with the
same inputs that are not longer. Where no copy can be made or anything differs, the model goes the plain way.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.logprobs.architectures import Architecture, Unlisted
from aspo_plugin.logprobs.attention import route
from aspo_plugin.logprobs.output_layer import Rows, output_head, unwrap
from aspo_plugin.logprobs.pair_batch import TOKEN_INPUTS, PairBatch, image_inputs
from aspo_plugin.logprobs.small_copy import NoSmallCopy, small_copy

logger = logging.getLogger(__name__)

# Relative: of hidden states to their root mean square, of gradients to the largest. What float32 leaves of a
# difference is a hundred times less, and a token that sees one token too many differs by more.
HIDDEN, GRADIENT = 1e-4, 3e-4
LONGER = 1.5


@dataclass(frozen=True)
class _Tried:
    found: Architecture | str
    longest: int  # row, in tokens


class Trials:
    """What was tried in this run, by model and by inputs of the batch."""

    def __init__(self) -> None:
        self._tried: dict[tuple[Any, ...], _Tried] = {}
        self._names: weakref.WeakKeyDictionary[nn.Module, tuple[Any, ...]] = weakref.WeakKeyDictionary()

    def architecture(
        self,
        model: nn.Module,
        unlisted: Unlisted,
        inputs: Mapping[str, Any],
        response_mask: Tensor,
        may_run_out: bool = False,
    ) -> Architecture | str:
        """How `model` shares the prefix of this batch, or why not. A refusal holds for all its batches.

        `may_run_out`: the caller tries smaller batches where memory runs out, so that refuses nothing.
        """
        of_model = self._name(model)
        key = (*of_model, _kind(inputs))
        longest = response_mask.shape[1]
        refused = self._tried.get(of_model)
        if refused is not None:
            return refused.found
        tried = self._tried.get(key)
        if tried is None or tried.longest < longest:
            found, reached = try_batch(model, unlisted.architecture, inputs, response_mask, may_run_out)
            if reached == 0:  # this batch cannot share, whatever the model
                return found
            if isinstance(found, str):
                found, key = f"{unlisted.reason}, and {found}", of_model
            else:
                logger.info("%s: a small copy shares a prefix exactly, so pairs do", unlisted.reason)
            tried = self._tried[key] = _Tried(found, reached)
        return tried.found

    def refused(self, model: nn.Module) -> str:
        """Why a trial said no, or "" where none did so far."""
        tried = self._tried.get(self._name(model))
        return tried.found if tried is not None and isinstance(tried.found, str) else ""

    def _name(self, model: nn.Module) -> tuple[Any, ...]:
        """The same for a policy and for a reference of its own."""
        base: Any = unwrap(model)
        if base not in self._names:
            self._names[base] = (type(base), base.config.to_json_string())
        return self._names[base]


def try_batch(
    model: nn.Module,
    candidate: Architecture,
    inputs: Mapping[str, Any],
    response_mask: Tensor,
    may_run_out: bool = False,
) -> tuple[Architecture | str, int]:
    """How a small copy of `model` gives this batch exactly, or why not; and the longest row tried.

    Length 0: the batch itself cannot share, and nothing was tried. Raises `OutOfMemoryError` where
    `may_run_out`.
    """
    length = response_mask.shape[1]
    first = PairBatch(model, inputs, response_mask, candidate)
    if first.layout is None:
        return first.reason, 0
    device = inputs["input_ids"].device
    failed = ""
    try:
        with _exactly(device):
            copied = small_copy(model, device)
            route(candidate.attention)
            for per_layer in (False, True) if len(candidate.layers) == 1 else (True, False):
                tried = replace(candidate, per_layer=per_layer, compiled=False)
                reason, longest = _differs(copied, tried, inputs, response_mask)
                if not reason:
                    return replace(candidate, per_layer=per_layer), longest
                failed = failed or reason
            return failed, length
    except NoSmallCopy as error:
        return f"no small copy of it can be tried: {error}", length
    except Exception as error:  # whatever stops an unknown model says that it does not share
        if may_run_out and isinstance(error, torch.OutOfMemoryError):
            raise
        text = str(error).strip().splitlines() or [""]
        return failed or f"a small copy of it stops with {type(error).__name__}: {text[0][:120]}", length
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _kind(inputs: Mapping[str, Any]) -> tuple[Any, ...]:
    """What distinguishes batches: the names of their inputs, and how those of images are laid out."""
    rows, images = len(inputs["input_ids"]), image_inputs(inputs)
    laid = {
        name: (inputs[name].ndim, len(inputs[name]) in (rows, rows // 2)) if name in images else ()
        for name in inputs
        if torch.is_tensor(inputs[name])
    }
    return (*sorted(laid.items()),)


def _float32_switches() -> list[tuple[Any, str, Any]]:
    """Where torch is told to compute float32 by less: (place, attribute, value for all of it).

    Torch has two interfaces for it, and the older one raises where a run has used the newer, which is there
    from 2.9 on and the one that convolutions go by.
    """
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
    places = (backends, backends.cuda.matmul, backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn)
    return [(place, "fp32_precision", "ieee") for place in places]


_FLOAT32 = _float32_switches()


@contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """Float32 without shortcuts, gradients on, and the run's random numbers as they were."""
    default = torch.get_default_dtype()
    shortcuts = [(place, name, getattr(place, name)) for place, name, _ in _FLOAT32]
    devices = [device] if device.type == "cuda" else []
    for place, name, exact in _FLOAT32:
        setattr(place, name, exact)
    torch.set_default_dtype(torch.float32)
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.autocast(device.type, enabled=False),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        torch.set_default_dtype(default)
        for place, name, before in shortcuts:
            setattr(place, name, before)


def _differs(
    model: Any, architecture: Architecture, inputs: Mapping[str, Any], response_mask: Tensor
) -> tuple[str, int]:
    """Why the copy's shared rows are not its ordinary rows ("" where they are), and the longest row."""
    more = max(8, int(response_mask.shape[1] * (LONGER - 1)))
    longer = _with_longer_prompts(inputs, response_mask, more)
    longest = 0
    real = (inputs, response_mask)
    for given, wanted in (real, _other_first(*real), longer, _other_first(*longer)):
        ordinary: _Measured | None = None
        for packed in (False,) if architecture.additive else (False, True):
            batch = PairBatch(model, _floats(given), wanted, architecture, packed=packed)
            if batch.layout is None:
                return f"a small copy of it cannot share ({batch.reason})", 0
            ordinary = ordinary or _measured(model, batch.ordinary, batch.ordinary_rows)
            differs = _unequal(ordinary, _measured(model, batch.shared, batch.shared_rows))
            if differs:
                return f"a small copy of it gives other {differs} with a shared prefix", 0
        longest = wanted.shape[1]
    return "", longest


# What the output layer gets for the response tokens [N, H], and gradients of a function of it, by parameter.
_Measured = tuple[Tensor, dict[str, Tensor]]


def _unequal(ordinary: _Measured, shared: _Measured) -> str:
    """What is not, or ""."""
    size = float(ordinary[0].square().mean().sqrt())
    if not float((shared[0] - ordinary[0]).abs().max()) <= HIDDEN * size:
        return "log-probs"
    largest = max((float(value.norm()) for value in ordinary[1].values()), default=0.0)
    for name in ordinary[1].keys() | shared[1].keys():
        one, other = ordinary[1].get(name), shared[1].get(name)
        if one is None or other is None:
            return f"gradients ({name} has one in one way only)"
        if not float((one - other).norm()) <= GRADIENT * (float(one.norm()) + 0.1 * largest):
            return f"gradients ({name})"
    return ""


def _measured(model: Any, given: dict[str, Any], rows: Rows) -> _Measured:
    head = output_head(model)
    assert head is not None
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.zero_grad(set_to_none=True)
    try:
        model(**{**given, "use_cache": False})
    finally:
        hook.remove()
    if len(seen) != 1 or tuple(seen[0].shape[:2]) != rows.shape:
        raise NoSmallCopy("its output layer does not see each token once")
    hidden = seen[0].flatten(0, 1)[rows.index]
    random = torch.Generator(hidden.device).manual_seed(1)
    (hidden * torch.randn(hidden.shape, generator=random, device=hidden.device)).sum().backward()
    return hidden.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _floats(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs.items()
    }


def _other_first(inputs: Mapping[str, Any], response_mask: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Rejected rows in the chosen rows' place; their images are the same."""
    pairs = len(response_mask) // 2
    moved = {
        key: value.roll(pairs, -2 if key == "position_ids" else 0) if key in TOKEN_INPUTS else value
        for key, value in inputs.items()
    }
    return moved, response_mask.roll(pairs, 0)


def _with_longer_prompts(
    inputs: Mapping[str, Any], response_mask: Tensor, more: int
) -> tuple[dict[str, Any], Tensor]:
    """The last token before each response `more` times more, with the positions that follow from it."""
    rows, length = response_mask.shape
    last = response_mask.long().argmax(1, keepdim=True) - 1  # [2B, 1]
    column = torch.arange(length + more, device=response_mask.device).expand(rows, -1)
    added = (column - last).clamp(0, more)
    source = column - added

    def longer(key: str, value: Tensor) -> Tensor:
        if key == "position_ids":  # [2B, L] or [3, 2B, L]
            return value.gather(-1, source.expand(*value.shape[:-1], -1)) + added
        index = source.view(*source.shape, *[1] * (value.ndim - 2)).expand(-1, -1, *value.shape[2:])
        return value.gather(1, index)

    moved = {key: longer(key, value) if key in TOKEN_INPUTS else value for key, value in inputs.items()}
    return moved, response_mask.gather(1, source)
