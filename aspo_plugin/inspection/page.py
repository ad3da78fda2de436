"""What the page of `aspo inspect` shows: rows measured under a model, or the samples that a run kept."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from aspo_plugin.config import AspoSettings
from dataset_tools.errors import UsageError

from .run import Run

STATES = {"before": "before training", "after": "after training"}
REFUSED = "cannot be trained"
_COLUMNS = {"similarity": 4, "perplexity": 2, "weight": 3, "log_ratio": 3}  # and digits behind the point


def measured_page(
    run: Run, shown: list[dict[str, Any]], measured: dict[int, dict[str, list[dict[str, float]]]], about: str
) -> dict[str, Any]:
    """The page's data. `shown`: rows of a preview; `measured`: by place in it, what `measure` gave."""
    for place, row in enumerate(shown):
        states = measured.get(place)
        if states is None:
            row["parts"] = [_untinted(side, row[side]) for side in ("chosen", "rejected")]
            continue
        names = STATES if "after" in states else {"before": f"weights under {_short(run.name)}"}
        row["parts"] = [_part(name, row["chosen"], states[state], state) for state, name in names.items()]
        if states.get("rejected"):
            row["parts"].append(_part("rejected, weighted too", row["rejected"], states["rejected"], ""))
        row["table"] = _table(states)
    kinds = Counter(kind for row in shown for kind in row["problems"])
    return {
        "title": f"{_short(run.name)}: weights of sentences",
        "about": f"{about} {settings_line(run.settings)}",
        "measure": "weight",
        "bounds": _bounds(shown),
        "kinds": list(kinds),
        "rows": shown,
    }


def _bounds(rows: Sequence[dict[str, Any]]) -> list[float]:
    """0 and 1, between which weights lie; further apart where weights that the data gave do not."""
    weights = [value for row in rows for part in row["parts"] for value in part["values"] or ()]
    known = [value for value in weights if math.isfinite(value)]
    return [min(0, *known), max(1, *known)] if known else [0, 1]


def settings_line(settings: AspoSettings) -> str:
    """What the weights are made with."""
    rejected = ", the rejected answer weighted too" if settings.weight_rejected else ""
    return f"Weights with {settings.in_words()}{rejected}."


def _short(name: str) -> str:
    return Path(name).name or name


def _part(
    name: str, text: dict[str, Any], sentences: Sequence[dict[str, Any]], state: str = "after"
) -> dict[str, Any]:
    spans = [text["spans"][int(one["sentence"])] for one in sentences]
    margin = sentences[0].get("margin")
    told = f"margin {_number(margin, 3, '+')}" if state == "after" and margin is not None else ""
    return {
        "name": name,
        "about": told,
        "text": text["text"],
        "spans": spans,
        "values": [one["weight"] for one in sentences],
        "notes": [_notes(one) for one in sentences],
    }


def _untinted(name: str, text: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "about": "no weights", "text": text["text"], "spans": text["spans"], "values": None}


def _notes(one: dict[str, Any]) -> list[str]:
    return [
        f"similarity {_number(one['similarity'], 4)}, perplexity {_number(one['perplexity'], 2)}",
        f"log-ratio {_number(one['log_ratio'], 3, '+')} over {int(one['tokens'])} tokens",
    ]


def _number(value: float | None, digits: int, sign: str = "") -> str:
    if value is None or math.isnan(value):
        return "unknown"
    value = round(value, digits) + 0.0  # no minus before a zero
    return (f"{value:{sign}.{digits}f}" if abs(value) < 1e5 else f"{value:.2e}").replace("-", "−")


def _table(states: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    before = states["before"]
    after = states.get("after")
    head = ["sentence", "tokens", "similarity"]
    head += ["perplexity before", "after", "weight before", "after", "log-ratio"] if after else []
    head += [] if after else ["perplexity", "weight"]
    rows = []
    for index, one in enumerate(before):
        cells = [str(int(one["sentence"]) + 1), str(int(one["tokens"])), _number(one["similarity"], 4)]
        both = [one, after[index]] if after else [one]
        for name, digits in (("perplexity", 2), ("weight", 3)):
            cells += [_number(side[name], digits) for side in both]
        cells += [_number(after[index]["log_ratio"], 3, "+")] if after else []
        rows.append(cells)
    return {"head": head, "rows": rows}


def samples_page(path: Path, rows: int) -> dict[str, Any]:
    """The page's data of a file that `log_samples` wrote: the last `rows` pairs, the newest first.

    Raises `UsageError` where it is no such file.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        samples = [json.loads(line) for line in lines if line.endswith("}")]  # a run may be writing one more
        pairs = [list(group) for _, group in groupby(samples, lambda one: (one["step"], one["pair"]))]
        shown = [_sampled(pair) for pair in pairs[-rows:][::-1]]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no file of samples, as log_samples writes it: {error!r}.") from None
    if not shown:
        raise UsageError(f"{path} holds no samples yet.")
    steps = len({pair[0]["step"] for pair in pairs})
    return {
        "title": f"{path.parent.name or path.stem}: samples of training",
        "about": f"{len(shown):,} of {len(pairs):,} pairs of {steps:,} logging steps, the newest first.",
        "measure": "weight",
        "bounds": _bounds(shown),
        "kinds": [],
        "numbered": False,
        "rows": shown,
    }


def _sampled(pair: list[dict[str, Any]]) -> dict[str, Any]:
    text, spans = "", []
    for one in pair:
        start = len(text) + bool(text)
        text += (" " if text else "") + one["text"]
        spans.append([start, len(text)])
    step, number = pair[0]["step"], pair[0]["pair"]
    chosen = {"text": text, "spans": spans, "similarity": [one["similarity"] for one in pair]}
    sentences = [{**one, "sentence": index} for index, one in enumerate(pair)]
    cells = [
        [str(k + 1), str(one["tokens"]), *(_number(one[name], digits) for name, digits in _COLUMNS.items())]
        for k, one in enumerate(pair)
    ]
    return {
        "number": step,
        "id": f"step {step}, pair {number + 1}",
        "problems": [],
        "images": [],
        "prompt": [["", pair[0]["prompt"]]],
        "chosen": chosen,
        "rejected": {"text": "", "spans": [], "similarity": None},
        "parts": [_part(f"weights at step {step}", chosen, sentences)],
        "table": {
            "head": ["sentence", "tokens", *(name.replace("_", "-") for name in _COLUMNS)],
            "rows": cells,
        },
    }
