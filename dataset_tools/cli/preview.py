"""`aspo-data preview`: a page to look at a converted dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preview(
    out: Annotated[Path, typer.Argument(help="Folder of a converted dataset.", show_default=False)],
    html: Annotated[Path, typer.Option(help="The page to write.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, help="Rows to show, spread over the dataset.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a self-contained page that shows images, prompts and sentences tinted by their similarity.

    Example: aspo-data preview rlaif-v --html rlaif-v.html
    """
    from dataset_tools.cli import output
    from dataset_tools.dataset.record import prepare_page, read_record
    from dataset_tools.dataset.schema import count_rows
    from dataset_tools.inspect.preview import write_preview

    read_record(out)  # a folder of another kind is met before any progress is shown
    prepare_page(html)
    with output.Progress("preview", count_rows(out)) as progress:
        found = write_preview(out, html, rows, progress.advance)
    size = html.stat().st_size / 1e6
    text = f"{html}: {found['rows']:,} of {found['of']:,} rows, {size:,.1f} MB. Open it in a browser."
    output.result({"path": str(html), **found}, text, as_json)
