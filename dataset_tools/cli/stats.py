"""`aspo-data stats`: what is in a converted dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer


def stats(
    out: Annotated[Path, typer.Argument(help="Folder of a converted dataset.", show_default=False)],
    picture: Annotated[
        Path | None, typer.Option(help="Also draw it into this SVG or PNG file.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Count rows, sentences, lengths, similarities and problems of a converted dataset.

    Example: aspo-data stats rlaif-v --picture rlaif-v.svg
    """
    from dataset_tools.cli import output
    from dataset_tools.dataset import schema
    from dataset_tools.dataset.record import prepare_page, read_record
    from dataset_tools.inspect import stats as module
    from dataset_tools.inspect.chart import check_format, draw

    if picture is not None:
        check_format(picture)
    read_record(out)  # a folder of another kind is met before any progress is shown
    if picture is not None:
        prepare_page(picture)
    with output.Progress("stats", schema.count_rows(out)) as progress:
        found = module.collect(out, progress.advance)
    if picture is not None:
        draw(found, picture)
        output.note(f"picture: {picture}")
    text = "" if as_json else module.table(found, shutil.get_terminal_size((100, 24)).columns)
    output.result(found, text, as_json)
