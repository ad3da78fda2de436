"""Weights, perplexities and log-ratios of a dataset's sentences, under a model before and after training."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.method.loss import AspoOutput
from aspo_plugin.training.model_needs import missing_packages_named
from aspo_plugin.training.step import loss_of

from .run import Run

NOT_INPUTS = ("completion_mask", "sentence_ids", "similarity")


def prepare(run: Run, rows: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]], dict[int, str]]:
    """The processor, the rows as its model is given them, and why each of the others cannot be trained.

    `rows` are those of a converted dataset. Prepared rows keep their place in `rows` as `place`.
    """
    from aspo_plugin.trl.rows import LengthLimit, RowPreparer

    processor = _processor(run)
    preparer = RowPreparer(processor, LengthLimit())
    made, refused = [], {}
    for place, row in enumerate(rows):
        try:
            made.append({**preparer(row, row["images"] or []), "images": row["images"], "place": place})
        except ValueError as error:
            refused[place] = str(error)
    return processor, made, refused


def _processor(run: Run) -> Any:
    """The run's own, as far as it was saved: its chat template may not be the base model's."""
    from transformers import AutoProcessor

    folder = Path(run.after or run.before)
    own = any((folder / f"{name}.json").is_file() for name in ("processor_config", "preprocessor_config"))
    name = str(folder) if own else run.before
    with missing_packages_named(name):
        processor = AutoProcessor.from_pretrained(name)
    template = folder / "chat_template.jinja"
    if not own and template.is_file():
        processor.chat_template = template.read_text(encoding="utf-8")
    return processor


def measure(
    run: Run,
    processor: Any,
    rows: list[dict[str, Any]],
    *,
    batch_size: int = 4,
    device: str | None = None,
    advance: Callable[[int], Any] = lambda pairs: None,
) -> list[dict[str, list[dict[str, float]]]]:
    """Of each prepared row, `before` and `after` (where there was training): one dict per sentence.

    A dict has `tokens`, `similarity` (NaN where there is none), `perplexity`, `weight`, `log_ratio`, and the
    pair's `margin` with `beta` 1, the same for all its sentences. The model is loaded in its own precision on
    a GPU, in float32 on a CPU.
    """
    from aspo_plugin.trl.collator import AspoVisionCollator

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    collator = AspoVisionCollator(processor)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    states: dict[str, list[Tensor]] = {}
    for state, model in _states(run, place):
        # Each model its own: a self-check on its first batch, and nothing kept of the other.
        read = ResponseLogProbs()
        states[state] = []
        for batch in batches:
            inputs, mask = _on(collator(batch), place, model.dtype)
            with torch.no_grad():
                states[state].append(read(model, inputs, mask).cpu())
            advance(len(batch))
    found: list[dict[str, list[dict[str, float]]]] = []
    for number, batch in enumerate(batches):
        given = collator(batch)
        before = states["before"][number]
        outputs = {
            state: loss_of(logps[number], before, given, run.settings, beta=1.0)
            for state, logps in states.items()
        }
        for index in range(len(batch)):
            found.append({state: _sentences(output, index) for state, output in outputs.items()})
    return found


def _on(batch: dict[str, Any], device: torch.device, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
    """What the model takes of a batch, and the response tokens `[2B, L]`."""

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    inputs = {name: moved(value) for name, value in batch.items() if name not in NOT_INPUTS}
    return inputs, batch["completion_mask"].to(device).bool()


@contextmanager
def _loaded(name: str, device: torch.device) -> Iterator[Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(name)
    kind: Any = AutoModelForImageTextToText
    if type(config) not in kind._model_mapping:
        kind = AutoModelForCausalLM
    with missing_packages_named(name):
        model = kind.from_pretrained(name, dtype="auto" if device.type == "cuda" else torch.float32)
    yield model.to(device).eval()
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _states(run: Run, device: torch.device) -> Iterator[tuple[str, Any]]:
    """The model before training, and after; never two in memory."""
    with _loaded(run.before, device) as model:
        yield "before", model
        if run.after is not None and run.adapter:
            from peft import PeftModel

            yield "after", PeftModel.from_pretrained(model, run.after).to(device).eval()
    if run.after is not None and not run.adapter:
        with _loaded(run.after, device) as model:
            yield "after", model


def _sentences(output: AspoOutput, index: int) -> list[dict[str, float]]:
    counts = output.token_counts[index]
    margin = float(output.chosen_rewards[index] - output.rejected_rewards[index])
    columns = {
        "tokens": counts,
        "similarity": output.similarity[index],
        "perplexity": output.nll[index].double().exp(),
        "weight": output.weights[index],
        "log_ratio": output.log_ratios[index],
    }
    return [
        {"sentence": k, "margin": margin, **{name: float(value[k]) for name, value in columns.items()}}
        for k in (counts > 0).nonzero().flatten().tolist()
    ]
