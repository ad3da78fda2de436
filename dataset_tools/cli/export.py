"""`aspo-data export`: the dataset as plain files of another tool."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dataset_tools.cli import output


class Layout(str, Enum):
    """Where the files are meant to be read."""

    LLAMAFACTORY = "llamafactory"
    TRL = "trl"


def export(
    out: Annotated[Path, typer.Argument(help="Folder made by `aspo-data convert`.")],
    target: Annotated[Path, typer.Argument(help="Folder to make.")],
    to: Annotated[Layout, typer.Option(help="Layout to write.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write the dataset as plain files, without sentences and similarities.

    For a tool that does not read the converted folder itself: a JSONL file with image files beside it in
    LLaMA-Factory's sharegpt ranking form, or a parquet file in TRL's vision preference form. ASPO's own
    trainers need no export.

    \b
    Example:
      aspo-data export rlaif-v rlaif-v-plain --to llamafactory
    """
    from dataset_tools.dataset.record import read_record
    from dataset_tools.share.export import export as write

    total = read_record(out).get("counts", {}).get("rows")
    with output.Progress("export", total) as progress:
        rows = write(out, target, to.value, progress.advance)
    output.result({"out": str(target), "to": to.value, "rows": rows}, f"{rows:,} rows in {target}", as_json)
