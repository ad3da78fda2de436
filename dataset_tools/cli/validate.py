"""`aspo-data validate`: every invariant of the schema, checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dataset_tools.cli import output


def validate(
    out: Annotated[Path, typer.Argument(help="Folder made by `aspo-data convert`.")],
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 takes one per CPU core.")] = 0,
    show: Annotated[int, typer.Option(min=0, help="Name at most this many problems.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check every invariant of a converted dataset; exit code 1 where one does not hold.

    Spans in range, in order and covering all but white space; as many similarities as sentences, each in
    [-1, 1] or null; images decodable; chosen and rejected different; ids unique.

    \b
    Example:
      aspo-data validate rlaif-v
    """
    from dataset_tools.dataset.record import read_record
    from dataset_tools.inspect.validate import validate as check

    total = read_record(out).get("counts", {}).get("rows")
    with output.Progress("validate", total) as progress:
        report = check(out, workers or os.cpu_count() or 1, show, progress.advance)
    value = {
        "rows": report.rows,
        "problems": report.total,
        "kinds": dict(report.kinds.most_common()),
        "named": [vars(problem) for problem in report.problems],
    }
    lines = [str(problem) for problem in report.problems]
    if report.total > len(report.problems):
        lines.append(f"... and {report.total - len(report.problems):,} more (--show)")
    lines.append(f"{report.rows:,} rows, {report.total:,} problems")
    output.result(value, "\n".join(lines), as_json)
    if report.total:
        raise typer.Exit(1)
