"""The `aspo` command line: data, memory plan, recipes, a look into a run and at the installation.

Each command's module is imported when it is asked for. `aspo-data` and `aspo-plan` are the same commands by
names of their own.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main

from aspo_plugin import __version__
from aspo_plugin.data_package import check_dataset_tools
from aspo_plugin.interrupt import interruptible


def _app() -> typer.Typer:
    from dataset_tools.cli.group import SETTINGS, Group

    class Aspo(Group):
        names = ("data", "plan", "inspect", "recipes", "schema", "doctor")

        def load(self, name: str) -> Any:
            if name == "data":
                from dataset_tools import cli as data

                return typer.main.get_command(data.app)
            module = import_module(f"aspo_plugin.{'plan.cli' if name == 'plan' else f'cli.{name}'}")
            return typer.main.get_command(module.app)

    app = typer.Typer(
        cls=Aspo, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=SETTINGS
    )
    app.callback()(_root)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aspo {__version__}")
        raise typer.Exit()


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """ASPO for vision-language models: data, memory, recipes, a look into a run and at the installation."""


@interruptible
def main() -> None:
    """Entry point of the console script `aspo`."""
    try:
        check_dataset_tools()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    from dataset_tools import cli as data
    from dataset_tools.cli import errors

    errors.own_process()
    if sys.argv[1:2] == ["data"] and "_ASPO_COMPLETE" not in os.environ:
        # Straight on: Typer loads pydantic to read a group's own options, which costs more than all the rest.
        data.app(sys.argv[2:], prog_name="aspo data")
    _app()(prog_name="aspo")
