"""Results of lmms-eval as two Markdown tables: what the ASPO paper reports too, and what it does not.

    python recipes/evaluation/tables.py base=results/base dpo=results/dpo aspo=results/aspo

Each NAME=PATH is a `*_results.json` of lmms-eval or a folder of such; of several results for one task in a
folder the newest counts. The paper's figures (ASPO, arXiv 2505.19100, ACL 2025 Findings) are printed as the
paper's, beside yours and never among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

PAPER = "ASPO, arXiv 2505.19100"


@dataclass(frozen=True)
class Column:
    """`task` and `metric` as lmms-eval names them; `scale` brings the metric to the paper's 0 to 100."""

    title: str
    task: str
    metric: str
    scale: float = 1.0


# POPE: the paper's base value, 85.9, is the F1 score that LLaVA-1.5 published, so F1 is compared.
REPORTED = (
    Column("MM-Vet", "mmvet", "gpt_eval_score"),
    Column("MMBench-dev", "mmbench_en_dev", "gpt_eval_score"),
    Column("LLaVA-W", "llava_in_the_wild", "gpt_eval_llava_all"),
    Column("SQA-I", "scienceqa_img", "exact_match", 100),
    Column("POPE F1", "pope", "pope_f1_score", 100),
)
NOT_REPORTED = (
    Column("POPE accuracy", "pope", "pope_accuracy", 100),
    Column("POPE yes", "pope", "pope_yes_ratio", 100),
    Column("AMBER CHAIR (low)", "amber_g", "amber_chair"),
    Column("AMBER cover", "amber_g", "amber_cover"),
    Column("AMBER hal (low)", "amber_g", "amber_hal"),
    Column("AMBER cog (low)", "amber_g", "amber_cog"),
    Column("CHAIR-i (low)", "coco_cap_chair", "coco_cap_chair_i"),
    Column("CHAIR-s (low)", "coco_cap_chair", "coco_cap_chair_s"),
)
# LLaVA-1.5-7B in the paper, in the order of REPORTED. Its SHR (36.7, 40.1, 33.9) is not in lmms-eval.
PAPER_7B = {
    "paper: LLaVA-1.5-7B": (30.5, 64.3, 63.4, 66.8, 85.9),
    "paper: DPO": (33.3, 64.7, 65.7, 66.4, 86.2),
    "paper: ASPO": (35.3, 65.6, 75.7, 67.7, 86.6),
}


def read_results(path: Path) -> dict[str, dict[str, float]]:
    """Task -> metric -> value, of a results file or of every one below a folder, newest last.

    Raises `ValueError` where there is none, or a file is not one of lmms-eval's.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*results.json"), key=lambda file: file.name)
    if not files:
        raise ValueError(
            f"{path} is neither a results file of lmms-eval nor a folder with *results.json in it."
        )
    found: dict[str, dict[str, float]] = {}
    for file in files:
        try:
            results = json.loads(file.read_text(encoding="utf-8"))["results"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is not a results file of lmms-eval: {error!r}") from None
        for task, values in results.items():
            found[task] = _metrics(values) or found.get(task, {})
    return found


def _metrics(values: dict[str, Any]) -> dict[str, float]:
    """Metrics of one task. lmms-eval writes `metric,filter`; the first filter of a metric counts."""
    metrics: dict[str, float] = {}
    for key, value in values.items():
        name = key.partition(",")[0]
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.endswith("_stderr"):
            metrics.setdefault(name, float(value))
    return metrics


def row_of(results: dict[str, dict[str, float]], columns: Iterable[Column]) -> list[float | None]:
    """The values of `columns`, None where a task or metric was not measured."""
    found = [(results.get(column.task, {}).get(column.metric), column.scale) for column in columns]
    return [None if value is None else value * scale for value, scale in found]


def table(columns: Iterable[Column], rows: dict[str, Iterable[float | None]]) -> str:
    """A Markdown table with one decimal; a dash where nothing was measured."""
    lines = ["| | " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for name, values in rows.items():
        cells = ["-" if value is None else f"{value:.1f}" for value in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    runs: Annotated[list[str], typer.Argument(help="NAME=PATH of results, one for each model measured.")],
) -> None:
    """Print two tables of lmms-eval results: what the ASPO paper reports too, and what it does not."""
    measured = {}
    for run in runs:
        name, equals, path = run.partition("=")
        if not equals or not name or not path:
            raise typer.BadParameter(f"{run!r} is not NAME=PATH")
        try:
            measured[name] = read_results(Path(path))
        except (OSError, ValueError) as error:
            typer.echo(f"tables.py: {error}", err=True)
            raise typer.Exit(1) from None
    wanted = {column.task for column in (*REPORTED, *NOT_REPORTED)}
    for name, results in measured.items():
        if not wanted & results.keys():
            typer.echo(f"tables.py: {name} has none of the tasks {', '.join(sorted(wanted))}.", err=True)
            raise typer.Exit(1)
    typer.echo(f"Reported by the paper too ({PAPER}; its rows are its own figures):\n")
    ours = {name: row_of(results, REPORTED) for name, results in measured.items()}
    typer.echo(table(REPORTED, {**PAPER_7B, **ours}))
    typer.echo("\nNot reported by the paper:\n")
    others = {name: row_of(results, NOT_REPORTED) for name, results in measured.items()}
    typer.echo(table(NOT_REPORTED, others))


if __name__ == "__main__":
    typer.run(main)
