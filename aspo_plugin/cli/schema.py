"""`aspo schema`: what an editor needs to know of a recipe's keys."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Annotated, Any

import typer

from dataset_tools.cli.group import SETTINGS

app = typer.Typer(add_completion=False, context_settings=SETTINGS)
HOSTS = {"llamafactory": "LLaMA-Factory", "axolotl": "Axolotl"}


@app.command()
def schema(
    host: Annotated[str, typer.Argument(help="llamafactory or axolotl.")],
    out: Annotated[
        typer.FileTextWrite | None, typer.Option("--out", "-o", help="File to write.", show_default="stdout")
    ] = None,
) -> None:
    """Write the JSON Schema of a host's recipes, with all keys of the host where it is installed.

    An editor checks and completes a recipe by it, whose first line then is
    `# yaml-language-server: $schema=aspo-schema.json`.

    Example: aspo schema axolotl -o aspo-schema.json
    """
    if host not in HOSTS:
        raise typer.BadParameter(f"{host!r} is no host with recipes: choose one of {', '.join(HOSTS)}.")
    made = _quietly(_llamafactory if host == "llamafactory" else _axolotl)
    text = json.dumps(made, indent=2, ensure_ascii=False)
    if out is None:
        typer.echo(text)
    else:
        out.write(text + "\n")
        typer.echo(f"next: begin a recipe with # yaml-language-server: $schema={out.name}", err=True)
    if not find_spec(host):
        typer.echo(
            f"note: {HOSTS[host]} is not installed here, so only the keys of ASPO are known.", err=True
        )


def _llamafactory() -> dict[str, Any]:
    from aspo_plugin.llamafactory.json_schema import recipe_schema

    return recipe_schema()


def _axolotl() -> dict[str, Any]:
    from aspo_plugin.axolotl.json_schema import config_schema

    return config_schema()


def _quietly(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """With what hosts print as they are imported on stderr: stdout is the schema's alone."""
    kept = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        return make()
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
