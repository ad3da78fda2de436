"""What a run says as it begins: one line of settings, sentences and refused rows, and a record of them."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from aspo_plugin.config import AspoSettings

from .files import RUN as FILE
from .refused_rows import RefusedRows

logger = logging.getLogger(__name__)

STREAM_PEEK = 64  # rows of a streamed set that are looked at: its whole is not known before training
MOSTLY = 0.5  # share of answers of one sentence above which a run is mostly plain DPO


class StartLine(TrainerCallback):
    """Written by the main process to stderr, above the bar. A warning where most answers are one sentence.

    `<output_dir>/aspo_run.json` keeps what `aspo inspect` needs: settings, model, scorers, template.
    """

    def __init__(
        self,
        trainer: Any,
        settings: AspoSettings,
        column: str,
        scorers: list[str],
        template: str | None = None,
    ) -> None:
        """`column`: of the training set, the sentence of each token of a chosen answer, -1 where of none.

        `scorers`: what is known to have scored the sentences. `template`: the host's name of its own, where
        it does not go by the processor's.
        """
        self._trainer = trainer
        self._settings = settings
        self._column = column
        self._scorers = scorers
        self._template = template
        trainer.add_callback(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        from tqdm import tqdm

        dataset = self._trainer.train_dataset
        whole = hasattr(dataset, "data")
        counts = sentence_counts(dataset, self._column) if whole else _peek(dataset, self._column)
        refused_rows = RefusedRows(args.output_dir)
        refused = sum(sum(reasons.values()) for reasons in refused_rows.counts().values())
        parts = [settings_told(self._settings, self._scorers), sentences_told(counts, whole)]
        parts.append(f"{refused:,} rows refused" + (f", listed in {refused_rows.path}" if refused else ""))
        tqdm.write(f"ASPO: {'; '.join(parts)}.", file=sys.stderr)
        self._record(Path(args.output_dir))
        # A number as it is multiplies a single sentence, too.
        as_they_are = self._settings.weighting == "given" and self._settings.normalization == "none"
        if share_of_one(counts) > MOSTLY and not as_they_are:
            logger.warning(
                "%.0f%% of the chosen answers have one sentence, and train as in plain DPO: there is nothing "
                "to weight. Answers of several sentences are what ASPO learns from.",
                100 * share_of_one(counts),
            )

    def _record(self, folder: Path) -> None:
        config = self._trainer.model.config
        record = {
            "settings": asdict(self._settings),
            "model": getattr(config, "_name_or_path", None),
            "scorers": self._scorers,
            "template": self._template,
        }
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, ensure_ascii=False)
        (folder / FILE).write_text(text + "\n", encoding="utf-8")


def settings_told(settings: AspoSettings, scorers: list[str]) -> str:
    """The settings that decide the weights, and where similarities come from."""
    told = settings.in_words()
    if settings.weight_rejected:
        told += ", rejected answers weighted too"
    if settings.alpha == 0:
        return f"{told}; by perplexity alone"
    if settings.weighting == "given":
        trap = f" (where they are still the cosines by {', '.join(scorers)}, nearly equal: nearly DPO)"
        return f"{told}; the weights are the dataset's similarities as they are{trap if scorers else ''}"
    return f"{told}; similarities {'by ' + ', '.join(scorers) if scorers else 'of the dataset'}"


def sentences_told(counts: list[int], whole: bool = True) -> str:
    """How many sentences so many rows have."""
    pairs = f"{len(counts):,} pairs" if whole else f"a streamed set, whose first {len(counts)} pairs have"
    with_ = " with" if whole else ""
    return f"{pairs}{with_} {sum(counts):,} sentences, {share_of_one(counts):.0%} of one sentence only"


def share_of_one(counts: list[int]) -> float:
    """Share of the rows that have one sentence."""
    return sum(count == 1 for count in counts) / max(len(counts), 1)


def sentence_counts(dataset: Any, column: str) -> list[int]:
    """Sentences of each row of a `datasets.Dataset` whose `column` holds a sentence id for every token."""
    import numpy as np
    import pyarrow.compute as pc

    counts: list[int] = []
    for table in dataset.select_columns([column]).with_format("arrow").iter(5000):
        lists = table[column].combine_chunks()
        rows, ids = (part.to_numpy() for part in (pc.list_parent_indices(lists), pc.list_flatten(lists)))
        rows, ids = rows[ids >= 0], ids[ids >= 0]
        # A sentence begins where the id changes: ids rise within an answer.
        begins = np.append(True, (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1]))[: len(ids)]
        counts += np.bincount(rows[begins], minlength=len(lists)).tolist()
    return counts


def _peek(dataset: Any, column: str) -> list[int]:
    return [len({i for i in row[column] if i >= 0}) for row in islice(iter(dataset), STREAM_PEEK)]
