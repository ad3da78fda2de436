"""TRL's own DPO on the batches of its own collator, as the measure of ours: log-probs, loss and gradients."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support import data

from .conftest import as_dataset

SETS = ("image", "text", "mixed", "several images")


@dataclass
class Step:
    """One loss of one trainer: log-probs of the responses `[2B]`, loss, and gradients by parameter."""

    logps: Tensor
    loss: Tensor
    gradients: dict[str, Tensor]
    batch: dict[str, Any]
    shared: bool = False


def drawn(kind: str) -> list[dict[str, Any]]:
    """Two pairs of one-sentence answers."""
    made = {
        "image": data.rows(2, 3, sentences=1),
        "text": data.rows(2, 4, sentences=1, text_only=True),
        "mixed": [*data.rows(1, 5, sentences=1), *data.rows(1, 6, sentences=1, text_only=True)],
        "several images": [
            *data.rows(1, 7, sentences=1, images_per_prompt=2),
            *data.rows(1, 8, sentences=1, size=(56, 90)),
        ],
    }
    return made[kind]


class Pair:
    """Both trainers around one policy and one reference, for one architecture."""

    def __init__(self, folder: Path, **options: Any) -> None:
        from transformers import AutoModelForImageTextToText
        from trl import DPOConfig, DPOTrainer

        from aspo_plugin.trl import AspoConfig, AspoTrainer

        policy, reference = (
            AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32) for _ in range(2)
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            for parameter in policy.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        common: dict[str, Any] = {
            "per_device_train_batch_size": 2, "bf16": False, "use_cpu": True, "report_to": [],
            "gradient_checkpointing": False, "save_strategy": "no", "max_length": None,
            "router_aux_loss_coef": 0.0,
        }  # fmt: skip
        rows = as_dataset(drawn("image"))
        pairs = rows.select_columns(["images", "prompt", "chosen", "rejected"])
        self._out = tempfile.TemporaryDirectory()  # removed with this object
        out = self._out.name
        self.host = DPOTrainer(policy, reference, DPOConfig(f"{out}/dpo", **common), train_dataset=pairs)
        self.ours = AspoTrainer(
            policy, reference, AspoConfig(f"{out}/aspo", **common, **options), train_dataset=rows
        )

    def host_step(self, kind: str) -> Step:
        columns = ("images", "prompt", "chosen", "rejected")
        rows = as_dataset(drawn(kind))
        given = [copy.copy({name: row[name] for name in columns}) for row in rows]
        return self.host_step_on(_as_float32(self.host.data_collator(given)))

    def host_step_on(self, batch: dict[str, Any]) -> Step:
        """Of a batch of ordinary rows, as TRL's collator gives it."""
        model = self.host.model
        model.train()
        model.zero_grad()
        self.host._metrics["train"].clear()
        seen: list[Any] = []
        hook = model.register_forward_hook(lambda module, args, output: seen.append(output))
        loss = self.host._compute_loss(model, dict(batch), return_outputs=False)
        hook.remove()
        loss.backward()
        logps = _logps(seen[0], batch) * batch["completion_mask"][:, 1:]
        return Step(logps.sum(1), loss.detach(), _gradients(model), batch)

    def our_step(self, kind: str) -> Step:
        from aspo_plugin.trl.datasets import prepare_dataset

        prepared = prepare_dataset(as_dataset(drawn(kind)), self.ours.processing_class, alpha=0)
        batch = _as_float32(self.ours.data_collator([prepared[index] for index in range(len(prepared))]))
        model = self.ours.model
        model.train()
        model.zero_grad()
        loss = self.ours._compute_loss(model, dict(batch))
        loss.backward()
        gradients = _gradients(model)
        inputs, mask = self.ours._aspo.split(batch)
        with torch.no_grad():
            logps = self.ours._aspo.read(model, inputs, mask).sum(1)
        return Step(logps, loss.detach(), gradients, batch, self.ours._aspo.read.shared)


def of_the_model(pair: Pair, kind: str) -> tuple[Tensor, Tensor]:
    """Log-probs of our step's responses `[2B]`: ours, and those of the model's own forward."""
    step = pair.our_step(kind)
    batch = ordinary(step)
    mask = batch.pop("completion_mask")[:, 1:]
    with torch.no_grad():
        own = _logps(pair.ours.model(**batch, use_cache=False), batch) * mask
    return step.logps, own.sum(1)


def _logps(output: Any, batch: dict[str, Any]) -> Tensor:
    """Of the tokens after the first, `[2B, S - 1]`: TRL's own from 1.15 on, which makes no logits."""
    if getattr(output, "log_probs", None) is not None:
        return output.log_probs.detach()
    logits = output.logits[:, :-1].detach().float().log_softmax(-1)
    return logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]


def _as_float32(batch: Any) -> dict[str, Any]:
    """Llama 4's processor gives bfloat16, whatever the model is of; all is compared in float32."""
    return {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in batch.items()
    }


def _gradients(model: Any) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def ordinary(step: Step) -> dict[str, Any]:
    """Our batch as TRL's: both copies of the images, and nothing of ours."""
    from aspo_plugin.logprobs.pair_batch import images_twice

    return {k: v for k, v in images_twice(step.batch).items() if k not in ("sentence_ids", "similarity")}


def same_tokens(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Some tokenizers put a space before a text that is tokenized alone, as TRL tokenizes responses."""
    rows = [
        [b["input_ids"][row][b["attention_mask"][row].bool()].tolist() for b in (ours, theirs)]
        for row in range(len(ours["input_ids"]))
    ]
    return all(one == other for one, other in rows)


def differences(ours: Step, theirs: Step) -> list[str]:
    """What is not equal, in words; gradients relative to the largest of all."""
    told = []
    if not torch.allclose(ours.logps, theirs.logps, rtol=2e-6, atol=2e-4):
        told.append(f"log-probs differ by {float((ours.logps - theirs.logps).abs().max()):.1e}")
    if not torch.allclose(ours.loss, theirs.loss, rtol=1e-4, atol=1e-5):
        told.append(f"loss {float(ours.loss):.6f}, not {float(theirs.loss):.6f}")
    largest = max(float(value.norm()) for value in theirs.gradients.values())
    for name in theirs.gradients.keys() | ours.gradients.keys():
        one, other = (step.gradients.get(name) for step in (ours, theirs))
        zero = torch.zeros_like(one if one is not None else other)
        one, other = (zero if value is None else value for value in (one, other))
        if (one - other).norm() > 1e-4 * (other.norm() + 0.1 * largest):
            told.append(f"gradient of {name} differs by {float((one - other).norm()):.1e}")
    return told


def fused() -> bool:
    """Whether this TRL's DPO computes its output layer itself, and makes no logits."""
    import trl.trainer.dpo_trainer as module

    return hasattr(module, "add_fused_lm_head")


@dataclass
class Outcome:
    """Of one kind of set: what stopped the host's DPO or ours (or ""), and where their numbers differ."""

    host_error: str
    our_error: str
    differences: list[str]
    shared: bool


def compare(pair: Pair, kind: str) -> Outcome:
    """TRL's step on its own batch against ours on ours.

    Where the tokens of the two differ, as `same_tokens` says, TRL computes on ours.
    """
    host, host_error = _tried(pair.host_step, kind)
    ours, our_error = _tried(pair.our_step, kind)
    if host is None or ours is None:
        return Outcome(host_error, our_error, [], False)
    if not same_tokens(ours.batch, host.batch):
        host = pair.host_step_on(ordinary(ours))
    return Outcome("", "", differences(ours, host), ours.shared)


def _tried(step: Any, kind: str) -> tuple[Step | None, str]:
    try:
        return step(kind), ""
    except Exception as error:  # whatever stops a trainer is what is told
        return None, f"{type(error).__name__}: {error}"
