"""The `aspo-data` command line: one file per command, each registered here by name only.

A command's module is imported when it is asked for, so `aspo-data --help` stays as fast as a bare Typer app.
To add a command, write `dataset_tools/cli/<name>.py` with a function `<name>` (Typer annotations, a docstring
that ends with an example) and add the name below. Import pyarrow, torch and the like inside the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
import typer.main

from dataset_tools.cli.group import SETTINGS, Group

COMMANDS = ("make", "generate", "convert", "score", "stats", "preview", "validate", "push", "pull", "export")


class Commands(Group):
    """The commands of this folder."""

    names = COMMANDS

    def load(self, name: str) -> Any:
        from dataset_tools.cli import errors

        function = getattr(import_module(f"{__name__}.{name}"), name)
        single = typer.Typer(add_completion=False)
        single.command(name, context_settings=SETTINGS)(errors.reported(function))
        return typer.main.get_command(single)


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=SETTINGS
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"aspo-data {version('aspo-plugin')}")
        raise typer.Exit()


@app.callback()
def _root(
    traceback: Annotated[
        bool,
        typer.Option(
            "--traceback", envvar="ASPO_DATA_TRACEBACK", help="Show the whole traceback of an error."
        ),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make sentence-annotated preference datasets for ASPO: convert, score, check, look, share."""
    from dataset_tools.cli import errors

    errors.show_traceback(traceback)


def main() -> None:
    """Entry point of the console script."""
    from dataset_tools.cli import errors

    errors.own_process()
    app(prog_name="aspo-data")
