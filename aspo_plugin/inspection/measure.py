"""Weights, perplexities and log-ratios of a dataset's sentences, under a model before and after training."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aspo_plugin.logprobs.response import ResponseLogProbs
from aspo_plugin.method.loss import AspoOutput
from aspo_plugin.method.sentence_sums import sentence_sums
from aspo_plugin.method.weights import weights_of_rejected
from aspo_plugin.training.model_needs import missing_packages_named
from aspo_plugin.training.step import SIMILARITIES, loss_of
from dataset_tools.errors import UsageError
from dataset_tools.own_code import refused_code

from .run import Run

NOT_INPUTS = ("completion_mask", "sentence_ids", "rejected_sentence_ids", *SIMILARITIES)


def prepare(run: Run, rows: Sequence[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]], dict[int, str]]:
    """The processor, the rows as its model is given them, and why each of the others cannot be trained.

    `rows` are those of a converted dataset. Prepared rows keep their place in `rows` as `place`.
    """
    from aspo_plugin.trl.rows import LengthLimit, RowPreparer

    processor = _processor(run)
    preparer = RowPreparer(processor, LengthLimit(), run.settings.weight_rejected)
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
    with _loading(name):
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
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
    pair's `margin` with `beta` 1, the same for all its sentences. With the setting `weight_rejected` a row
    has `rejected` too: the same of the rejected answer, under the last of the models. The model is loaded in
    its own precision on a GPU, in float32 on a CPU.
    """
    from aspo_plugin.trl.collator import AspoVisionCollator

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    collator = AspoVisionCollator(processor, weight_rejected=run.settings.weight_rejected)
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
        del model, read  # before the next is loaded
    found: list[dict[str, list[dict[str, float]]]] = []
    for number, batch in enumerate(batches):
        given = collator(batch)
        before = states["before"][number]
        outputs = {
            state: loss_of(logps[number], before, given, run.settings, beta=1.0)
            for state, logps in states.items()
        }
        last = list(states.values())[-1][number]
        rejected = _rejected(last, before, given, run.settings.weighting)
        for index in range(len(batch)):
            found.append({state: _sentences(output, index) for state, output in outputs.items()})
            if rejected:
                found[-1]["rejected"] = _by_sentence(rejected, index)
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
def _loading(name: str) -> Iterator[None]:
    """Raises `UsageError` for a model with code of its own, and what names a package that it needs."""
    try:
        with missing_packages_named(name):
            yield
    except ValueError as error:
        if refusal := refused_code(name, error):
            raise UsageError(refusal) from None
        raise


@contextmanager
def _loaded(name: str, device: torch.device) -> Iterator[Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    with _loading(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind: Any = AutoModelForImageTextToText
        if type(config) not in kind._model_mapping:
            kind = AutoModelForCausalLM
        dtype = "auto" if device.type == "cuda" else torch.float32
        model = kind.from_pretrained(name, dtype=dtype, trust_remote_code=False)
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
        del model
    if run.after is not None and not run.adapter:
        with _loaded(run.after, device) as model:
            yield "after", model


def _sentences(output: AspoOutput, index: int) -> list[dict[str, float]]:
    margin = float(output.chosen_rewards[index] - output.rejected_rewards[index])
    columns = {
        "tokens": output.token_counts,
        "similarity": output.similarity,
        "perplexity": output.nll.double().exp(),
        "weight": output.weights,
        "log_ratio": output.log_ratios,
    }
    return [{"margin": margin, **one} for one in _by_sentence(columns, index)]


def _rejected(
    policy: Tensor, reference: Tensor, batch: dict[str, Any], weighting: str
) -> dict[str, Tensor] | None:
    """The columns of rejected answers whose sentences are weighted, from the log-probs `[2B, L]`."""
    if "rejected_sentence_ids" not in batch:
        return None
    ids, similarity = batch["rejected_sentence_ids"], batch["rejected_similarity"]
    policy, reference = policy.chunk(2)[1], reference.chunk(2)[1]
    sums = partial(sentence_sums, sentence_ids=ids, num_sentences=similarity.size(1))
    counts = sums((ids >= 0).to(policy.dtype))
    weights, _ = weights_of_rejected(weighting, similarity.to(policy.dtype), counts > 0)
    return {
        "tokens": counts,
        "similarity": similarity,
        "perplexity": (-sums(policy) / counts.clamp(min=1.0)).double().exp(),
        "weight": weights,
        "log_ratio": sums(policy - reference),
    }


def _by_sentence(columns: dict[str, Tensor], index: int) -> list[dict[str, float]]:
    """One dict per sentence that has tokens, of columns `[B, K]`."""
    present = (columns["tokens"][index] > 0).nonzero().flatten().tolist()
    return [
        {"sentence": k, **{name: float(value[index, k]) for name, value in columns.items()}} for k in present
    ]
