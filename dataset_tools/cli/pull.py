"""`aspo-data pull`: a converted dataset from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pull(
    repo: Annotated[
        str, typer.Argument(help="A dataset pushed by aspo-data: owner/name.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make.", show_default=False)],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fetch a dataset that `aspo-data push` published, ready to train on.

    A pull that was cut off is taken up by the same command.

    Example: aspo-data pull me/rlaif-v-aspo rlaif-v
    """
    from dataset_tools.cli import output
    from dataset_tools.inspect.validate import first_problems
    from dataset_tools.share import card, hub

    done = hub.pull(repo, out, revision=revision, check=first_problems)
    rows, license_ = done["record"]["counts"]["rows"], card.license_of(done["record"])
    text = f"{out}: {rows:,} rows of {repo} at {done['commit']} (licence: {license_})"
    output.result(done, text, as_json)
