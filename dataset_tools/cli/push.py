"""`aspo-data push`: a converted dataset to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    out: Annotated[Path, typer.Argument(help="Folder of a converted dataset.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Where to publish it: owner/name.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch to push to; made where it is missing. Default: main.")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the card and data/*.parquet of a repository of another kind."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the dataset card; send nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish a converted dataset on the Hub, with a dataset card that carries the source's licence over.

    A push that was cut off is taken up by the same command. Log in first with `hf auth login`.

    Example: aspo-data push rlaif-v me/rlaif-v-aspo --private
    """
    from dataset_tools.cli import output
    from dataset_tools.share import hub

    planned = hub.plan(out, repo)
    if not dry_run:
        from dataset_tools.inspect.chart import draw
        from dataset_tools.inspect.stats import collect

        draw(collect(out), out / hub.PICTURE)
        planned = hub.plan(out, repo)
    if not planned.scored:
        output.warn("the sentences are not scored: run `aspo-data score` first to train with similarities.")
    if planned.license == "unknown":
        output.warn("the source states no licence, and the card says so: ask its authors before sharing.")
    size = sum(planned.files.values())
    if dry_run:
        value = {"repo": repo, "files": planned.files, "license": planned.license, "card": planned.card}
        listing = "\n".join(f"{bytes_:>14,}  {name}" for name, bytes_ in planned.files.items())
        text = f"{listing}\n{size:>14,}  bytes would go to {repo}\n\n{planned.card}"
        output.result(value, text, as_json)
        return
    output.note(f"sending {len(planned.files)} files, {size / 1e6:,.1f} MB, to {repo}")
    done = hub.push(out, repo, private=private, revision=revision, overwrite=overwrite)
    if done["removed"]:
        more = f" and {len(done['removed']) - 10} more (--json names all)" if done["removed"][10:] else ""
        output.note(f"removed, which this dataset does not have: {', '.join(done['removed'][:10])}{more}")
    output.result(done, f"published: {done['url']} ({done['license']}, commit {done['commit']})", as_json)
