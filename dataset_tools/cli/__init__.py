"""The `aspo-data` command line: one file per command, each registered here by name only.

A command's module is imported when it is asked for, so `aspo-data --help` stays as fast as a bare Typer app.
To add a command, write `dataset_tools/cli/<name>.py` with a function `<name>` (Typer annotations, a docstring
that ends with an example) and add the name below. Import pyarrow, torch and the like inside the function.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer
import typer.core
import typer.main

COMMANDS = ("convert", "score", "stats", "preview", "validate", "push", "pull", "export")


class Commands(typer.core.TyperGroup):
    """A command group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        from dataset_tools.cli import errors

        function = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        single = typer.Typer(add_completion=False)
        single.command(cmd_name)(errors.reported(function))
        return typer.main.get_command(single)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


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
