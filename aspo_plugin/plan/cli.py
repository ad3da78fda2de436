"""The command `aspo-plan`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from aspo_plugin.interrupt import interruptible

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe of LLaMA-Factory or Axolotl.")],
    override: Annotated[
        list[str] | None,
        typer.Argument(help="KEY=VALUE that replaces the recipe's key, as behind llamafactory-cli."),
    ] = None,
    more: Annotated[
        Path | None,
        typer.Option("--with", help="A file of recipes/shared (.args or .yaml) laid over the recipe."),
    ] = None,
    gpus: Annotated[int, typer.Option(help="GPUs that share the run.", min=1)] = 1,
    config: Annotated[
        Path | None, typer.Option(help="Folder with the model's config.json, for models not in the table.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate the memory that RECIPE needs on each GPU: an upper bound for its longest batch.

    Example: aspo-plan recipes/llamafactory/llava-1.5-7b.yaml per_device_train_batch_size=2
    """
    from .memory import estimate
    from .model import shape_of
    from .recipe import read_run

    def tell(text: str) -> None:
        typer.echo(f"aspo-plan: {text}", err=True)

    try:
        run = read_run(recipe, override or [], more, gpus, tell)
        tell(f"counting the layers of {run.model}, which needs torch and transformers: a moment")
        parts = estimate(run, shape_of(run, config, tell))
    except ModuleNotFoundError as error:
        typer.echo(
            f"aspo-plan: {error.name} is not installed, and the model's shape comes from it: run this in the "
            "environment of a host (aspo-plugin[llamafactory] or [axolotl]).",
            err=True,
        )
        raise typer.Exit(2) from None
    except (OSError, ValueError) as error:
        tell(" ".join(f"{error}{_packaged(recipe)}".split()))
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("aspo-plan: stopped.", err=True)
        raise typer.Exit(130) from None
    total = sum(part.bytes for part in parts)
    if as_json:
        document = {"recipe": str(recipe), "gpus": gpus, "bytes": {part.name: part.bytes for part in parts}}
        typer.echo(json.dumps({**document, "total": total}, indent=2))
        return
    sharing = f"{gpus} GPUs, {run.sharding}" if gpus > 1 else "1 GPU"
    typer.echo(f"{recipe}: {run.model}, {run.method}, {sharing}; GiB on each GPU")
    width = max(len(part.name) for part in parts)
    for part in parts:
        typer.echo(f"  {part.name:<{width}}  {part.bytes / 2**30:7.2f}  {part.formula}")
    typer.echo(f"  {'total':<{width}}  {total / 2**30:7.2f}  {_fits(total)}")
    typer.echo(f"next: {training(run.host, recipe, override or [], more, gpus)}", err=True)


def _packaged(recipe: Path) -> str:
    """What to do about a name that `aspo recipes list` prints, and that is no file here."""
    if recipe.exists():
        return ""
    from aspo_plugin.cli.recipes import names

    name = recipe.as_posix().removesuffix(".yaml")
    return f" `aspo recipes copy {name}` puts that recipe here." if name in names() else ""


def training(host: str, recipe: Path, overrides: list[str], more: Path | None, gpus: int) -> str:
    """The command that trains what was counted."""
    if host == "llamafactory":
        several = ["FORCE_TORCHRUN=1", f"NPROC_PER_NODE={gpus}"] if gpus > 1 else []
        words = [*several, "llamafactory-cli", "train", shlex.quote(str(recipe))]
        words += [f"$(cat {shlex.quote(str(more))})"] if more else []
        return " ".join([*words, *map(shlex.quote, overrides)])
    import yaml

    options, inside = [], []
    for word in overrides:
        key, _, text = word.partition("=")
        value = yaml.safe_load(text)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            options.append(shlex.quote(f"--{key.replace('_', '-')}={text}"))
        else:
            inside.append(f"{key}: {text or 'null'}")
    words = ["axolotl", "train", shlex.quote(str(recipe)), *options]
    words += ["--sweep", shlex.quote(str(more))] if more else []
    words += ["--launcher", "torchrun", "--", "--nproc_per_node", str(gpus)] if gpus > 1 else []
    # Axolotl's options take no lists, no blocks and no null, and of its switches some have a value, some not.
    first = f"put {'; '.join(inside)} into {recipe}, then " if inside else ""
    return first + " ".join(words)


def _fits(total: float) -> str:
    """The smallest common GPU that holds `total` bytes; a card has a little less than its name says."""
    for size in (24, 40, 48, 80, 141):
        if total <= 0.97 * size * 2**30:
            return f"fits a {size} GB GPU"
    return "more than one GPU holds: share it (--with, --gpus), or shorten the batch"


@interruptible
def main() -> None:
    """The console script."""
    sys.exit(app())
