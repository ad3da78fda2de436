"""A language model's output layer, made to return log-probs of response tokens in place of logits.

The layer's `forward` is replaced for one call, so the work stays inside the model's own forward: its
hooks (ZeRO-3, FSDP2), its adapters and its autocast apply as ever. What a model does to its logits
afterwards (soft-capping, scaling) is not assumed: the first call compares a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aspo_plugin.logprobs.chunked import gather_logps, linear_logps, module_logps

PROBE_ROWS = 4


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DDP, DeepSpeed, FSDP1, `torch.compile` and PEFT; FSDP2 wraps nothing."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif isinstance(getattr(model, "module", None), nn.Module) and not _names_head(model):
            model = model.module
        else:
            return model


def _names_head(model: nn.Module) -> bool:
    return "get_output_embeddings" in dir(type(model))


def output_head(model: nn.Module) -> nn.Module | None:
    """The module that makes logits from hidden states, or None where the model names none."""
    base = unwrap(model)
    head = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    return head if isinstance(head, nn.Module) else None


@dataclass
class Rows:
    """Which rows of the head's input predict which tokens.

    `index` [N]: into the flattened [batch, length] of the model's input. `targets` [N]: token ids.
    `shape`: that (batch, length).
    """

    index: Tensor
    targets: Tensor
    shape: tuple[int, int]


@dataclass
class Call:
    """What one forward through the replaced head left behind."""

    calls: int = 0
    logps: Tensor | None = None
    probe: Tensor | None = None
    reason: str = ""


@dataclass(frozen=True)
class Untried:
    """Nothing is known yet of what follows the head: its first call is compared with the model's logits."""


@dataclass(frozen=True)
class Unchanged:
    """The head's logits are the model's."""


@dataclass(frozen=True)
class Changed:
    """The model's logits are `by(head's logits)`: a soft cap or a scale."""

    by: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Unknown:
    """The model's own logits (of the wanted rows) must be read, for `reason`."""

    reason: str


@dataclass
class HeadReader:
    """Reads log-probs through one head.

    `logits` is what is known of the way from the head's logits to the model's. `precision` is what products
    were computed in at the last call: accelerate turns autocast on inside the model's forward only.
    """

    head: nn.Module
    logits: Untried | Unchanged | Changed | Unknown = Untried()
    precision: torch.dtype | None = None

    @contextmanager
    def reading(self, rows: Rows) -> Iterator[Call]:
        """While open, the head returns log-probs [1, N, 1] (where `Unknown`: logits [1, N, V]) of `rows`."""
        call = Call()
        own = self.head.__dict__.get("forward")
        forward = self.head.forward

        def replaced(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            call.calls += 1
            self.precision = _precision(hidden)
            if tuple(hidden.shape[:2]) != rows.shape:
                call.reason = "the output layer's input is not [batch, length, hidden]"
                return forward(hidden, *args, **kwargs)
            wanted = hidden.flatten(0, 1)[rows.index.to(hidden.device)]
            if isinstance(self.logits, Unknown):
                return forward(wanted.unsqueeze(0), *args, **kwargs)
            call.logps = self._logps(forward, wanted, rows.targets.to(hidden.device), own is None)
            if not isinstance(self.logits, Untried):
                return call.logps.view(1, -1, 1)
            call.probe = forward(wanted[:PROBE_ROWS].unsqueeze(0), *args, **kwargs)
            # The zero keeps the log-probs' backward behind the hooks on what the head returns.
            return call.probe + 0.0 * call.logps.sum().to(call.probe.dtype)

        self.head.forward = replaced
        try:
            yield call
        finally:
            if own is None:
                del self.head.__dict__["forward"]
            else:
                self.head.forward = own

    def _logps(
        self, forward: Callable[..., Tensor], hidden: Tensor, targets: Tensor, untouched: bool
    ) -> Tensor:
        head = self.head
        after = self.logits.by if isinstance(self.logits, Changed) else None
        if (
            after is None
            and untouched
            and isinstance(head, nn.Linear)
            and type(head).forward is nn.Linear.forward
        ):
            return linear_logps(head, hidden, targets)
        vocabulary = int(getattr(head, "out_features", 0)) or 2**17
        return module_logps(
            forward if after is None else lambda rows: after(forward(rows)),
            hidden,
            targets,
            vocabulary,
        )

    def finish_probe(self, model: nn.Module, logits: Tensor, call: Call) -> bool:
        """Learn from the first call what follows the head; True where that call's log-probs hold."""
        assert call.probe is not None
        # Layers spread over several devices: accelerate brings the logits back to the first.
        head, seen = call.probe.detach().to(logits.device).float(), logits.detach().float()
        if seen.shape != head.shape:
            self.logits = Unknown("the model reshapes its logits")
            return False
        if torch.equal(seen, head):
            self.logits = Unchanged()
            return True
        scale = head.abs().max().clamp(min=1.0)
        # Of the type they were computed in: accelerate makes what the model returns float32.
        close = torch.finfo(call.probe.dtype).eps * 4 * scale
        for after in _known_functions(model):
            if (after(head) - seen).abs().max() <= close:
                self.logits = Changed(after)
                return False
        self.logits = Unknown("the model changes its logits in a way that is not known here")
        return False


def _precision(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _known_functions(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Soft-capping and scaling as the configs of the model and of its language model may ask for them."""
    config: Any = getattr(unwrap(model), "config", None)
    for owner in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
        cap = getattr(owner, "final_logit_softcapping", None)
        if cap:
            yield partial(_soft_capped, cap=cap)
        scale, divisor = getattr(owner, "logit_scale", None), getattr(owner, "logits_scaling", None)
        if isinstance(scale, float):
            yield partial(torch.mul, other=scale)
        if divisor:
            yield partial(torch.div, other=divisor)


def _soft_capped(logits: Tensor, cap: float) -> Tensor:
    return torch.tanh(logits / cap) * cap


def read_logps(
    model: nn.Module, inputs: dict[str, Any], rows: Rows, readers: MutableMapping[nn.Module, HeadReader]
) -> tuple[Tensor, str]:
    """One forward: log-probs [N] in float32, and why the chunked head was not used ("" where it was).

    `readers` keeps what was learnt of each head between calls.
    """
    head = output_head(model)
    if head is None:
        return _from_logits(model(**inputs).logits, rows), "the model names no output layer"
    reader = readers.get(head)
    if reader is None:
        reader = readers.setdefault(head, HeadReader(head))
    probing = isinstance(reader.logits, Untried)
    with reader.reading(rows) as call:
        logits = model(**inputs).logits
    if call.calls != 1:
        # The head is not where the logits come from, or serves more than them: leave it alone.
        return _from_logits(model(**inputs).logits, rows), "the output layer does not run once per forward"
    if call.reason or isinstance(reader.logits, Unknown):
        reason = reader.logits.reason if isinstance(reader.logits, Unknown) else call.reason
        return _from_logits(logits, rows), reason
    if probing and not reader.finish_probe(model, logits, call):
        return read_logps(model, inputs, rows, readers)
    assert call.logps is not None
    call.logps = call.logps.to(logits.device)
    if not call.logps.requires_grad:
        return call.logps, ""
    # Wrappers hang their backward hooks on what the model returns: keep that in the graph.
    return call.logps + 0.0 * logits.float().sum(), ""


def _from_logits(logits: Tensor, rows: Rows) -> Tensor:
    count = len(rows.index)
    if tuple(logits.shape[:2]) == rows.shape:
        return gather_logps(logits.flatten(0, 1)[rows.index.to(logits.device)], rows.targets)
    if tuple(logits.shape[:2]) == (1, count):
        return gather_logps(logits[0], rows.targets)
    raise ValueError(f"the model returned logits of {tuple(logits.shape)} for tokens of {rows.shape}")
