"""A look into training: some pairs of every logging step, sentence by sentence, as a table."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from aspo_plugin.method.loss import AspoOutput
from aspo_plugin.method.weights import scaled_perplexity, scaled_similarity

from .files import SAMPLES as FILE

logger = logging.getLogger(__name__)

TABLE = "aspo/samples"
COLUMNS = (
    "step",
    "pair",
    "sentence",
    "text",
    "tokens",
    "similarity",
    "similarity_scaled",
    "perplexity",
    "perplexity_scaled",
    "weight",
    "coefficient",
    "log_ratio",
    "prompt",
)
EXCERPT = 200  # characters of a prompt, its last: the question stands behind the image
_MAX_LOG_PERPLEXITY = 700.0  # exp of more overflows
# Of a batch: similarity, nll, token counts, weights, coefficients and log-ratios, each `[B, K]`; sentence ids
# and token ids of the chosen rows, `[B, L]`.
Kept = tuple[list[Tensor], Tensor, Tensor]


class SampleLog(TrainerCallback):
    """`<output_dir>/aspo_samples.jsonl`: one line per sentence of the last pairs before each logging step.

    Only the main process keeps pairs, of its own batches. Tensors stay on the device until the step is
    logged, and are copied once then. The same rows go as a table to W&B, trackio, SwanLab and TensorBoard
    where the run reports to them. A run that resumes goes on behind the rows of its checkpoint's step.
    """

    def __init__(self, trainer: Any, number: int) -> None:
        """`number`: pairs per logging step; 0 keeps and writes nothing."""
        self._trainer = trainer
        self._number = number if trainer.args.process_index == 0 else 0
        self._path = Path(trainer.args.output_dir) / FILE
        self._kept: list[Kept] = []
        self._failed: set[str] = set()
        if self._number:
            trainer.add_callback(self)

    def keep(self, output: AspoOutput, batch: dict[str, Any]) -> None:
        """Take note of a trained batch: without a copy, without waiting for the device."""
        if not self._number:
            return
        ids = batch["sentence_ids"]
        inner = batch.get("data", batch)  # LLaMA-Factory nests what MiniCPM-V takes
        numbers = [output.similarity, output.nll, output.token_counts]
        numbers += [output.weights, output.coefficients, output.log_ratios]
        self._kept.append((numbers, ids, inner["input_ids"][: len(ids)]))
        while sum(len(kept) for _, kept, _ in self._kept[1:]) >= self._number:
            self._kept.pop(0)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rows of steps that this run will make (again) are removed: all, where it does not resume."""
        if not self._path.is_file():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        before = [line for line in lines if _step(line) <= state.global_step]
        if len(before) < len(lines):
            part = self._path.with_suffix(".part")
            part.write_text("".join(before), encoding="utf-8")
            part.replace(self._path)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not self._kept or "loss" not in (logs or {}):
            return
        processing = self._trainer.processing_class
        rows = sample_rows(self._kept, self._number, getattr(processing, "tokenizer", processing))
        rows = [{"step": state.global_step, **row} for row in rows]
        self._kept = []
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        for tracker in self._trainer.callback_handler.callbacks:
            for name, send in _SEND.items():
                if name in {base.__name__ for base in type(tracker).__mro__} and name not in self._failed:
                    self._send(name, send, tracker, state.global_step, rows)

    def _send(self, name: str, send: Any, tracker: Any, step: int, rows: list[dict[str, Any]]) -> None:
        try:
            send(tracker, step, [[row[column] for column in COLUMNS] for row in rows])
        except Exception as error:  # a table is no reason to lose a training run
            self._failed.add(name)
            logger.warning(
                "%s takes no table of samples (%s: %s): from now on they are in %s only.",
                name.removesuffix("Callback"),
                type(error).__name__,
                error,
                self._path,
            )


def sample_rows(kept: list[Kept], number: int, tokenizer: Any) -> list[dict[str, Any]]:
    """One row per sentence of the last `number` pairs: all `COLUMNS` but `step`.

    Copies to the CPU once. A number that is unknown or not finite is None.
    """
    parts, shapes, left = [], [], number
    for columns, sentence_ids, input_ids in reversed(kept):
        size = len(sentence_ids)
        last = slice(size - min(left, size), size)
        left -= last.stop - last.start
        numbers = torch.stack([column[last].float() for column in columns])
        # float32 holds token ids exactly, up to 2^24.
        tokens = torch.stack([sentence_ids[last].float(), input_ids[last].float()])
        parts += [numbers.flatten(), tokens.flatten()]
        shapes += [numbers.shape, tokens.shape]
    flat = torch.cat(parts).cpu().split([shape.numel() for shape in shapes])
    blocks = [part.view(shape) for part, shape in zip(flat, shapes, strict=True)]
    rows: list[dict[str, Any]] = []
    pair = 0
    for numbers, tokens in reversed(list(zip(blocks[::2], blocks[1::2], strict=True))):
        for index in range(numbers.size(1)):
            found = _pair_rows(numbers[:, index], tokens[:, index].long(), tokenizer)
            rows += [{"pair": pair, **row} for row in found]
            pair += 1
    return rows


def _pair_rows(numbers: Tensor, tokens: Tensor, tokenizer: Any) -> list[dict[str, Any]]:
    sentence_ids, input_ids = tokens
    similarity, nll, counts, weights, coefficients, log_ratios = numbers
    present = (counts > 0).unsqueeze(0)
    known = not similarity[present[0]].isnan().any()
    scaled = scaled_similarity(similarity.nan_to_num().unsqueeze(0), present)[0]
    sureness = scaled_perplexity(nll.unsqueeze(0), present)[0]
    first = int((sentence_ids != -1).nonzero()[0])
    prompt = _text(tokenizer, input_ids[:first])[-EXCERPT:]
    rows = []
    for k in present[0].nonzero().flatten().tolist():
        values = {
            "similarity": similarity[k],
            "similarity_scaled": scaled[k] if known else math.nan,
            "perplexity": math.exp(min(float(nll[k]), _MAX_LOG_PERPLEXITY)),
            "perplexity_scaled": sureness[k],
            "weight": weights[k],
            "coefficient": coefficients[k],
            "log_ratio": log_ratios[k],
        }
        rows.append(
            {
                "sentence": k,
                "text": _text(tokenizer, input_ids[sentence_ids == k]),
                "tokens": int(counts[k]),
                **{name: _finite(float(value)) for name, value in values.items()},
                "prompt": prompt,
            }
        )
    return rows


def _text(tokenizer: Any, ids: Tensor) -> str:
    return str(tokenizer.decode(ids[ids >= 0].tolist(), skip_special_tokens=True).strip())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _step(line: str) -> float:
    try:
        found: float = json.loads(line)["step"]
        return found
    except (ValueError, KeyError):  # the end of a run that was killed while it wrote
        return math.inf


def _wandb(tracker: Any, step: int, rows: list[list[Any]]) -> None:
    import wandb

    table = wandb.Table(columns=list(COLUMNS), data=rows)
    wandb.log({TABLE: table, "train/global_step": step})


def _trackio(tracker: Any, step: int, rows: list[list[Any]]) -> None:
    import pandas
    import trackio

    # Objects, for a column of numbers would hold what is not known as the text "NaN".
    table = trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(COLUMNS), dtype=object))
    trackio.log({TABLE: table, "train/global_step": step})


def _swanlab(tracker: Any, step: int, rows: list[list[Any]]) -> None:
    import swanlab

    table = swanlab.echarts.Table()
    table.add(headers=list(COLUMNS), rows=rows)
    swanlab.log({TABLE: table}, step=step)


def _tensorboard(tracker: Any, step: int, rows: list[list[Any]]) -> None:
    if tracker.tb_writer is not None:
        tracker.tb_writer.add_text(TABLE, _markdown(rows), step)


# The callbacks of `transformers` (and the host's of the same name) that stand in a run for `report_to`.
_SEND = {
    "WandbCallback": _wandb,
    "TrackioCallback": _trackio,
    "SwanLabCallback": _swanlab,
    "TensorBoardCallback": _tensorboard,
}


def _markdown(rows: list[list[Any]]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return "" if value is None else " ".join(str(value).replace("|", "\\|").split())

    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)
