"""A command group whose commands are imported when asked for, with `help`, `-h` and "did you mean"."""

from __future__ import annotations

from typing import Any

import typer.core

from dataset_tools.cli.last_line import left_of_usage
from dataset_tools.nearest import did_you_mean

SETTINGS = {"help_option_names": ["-h", "--help"]}


class Group(typer.core.TyperGroup):
    """Names its commands in `names`; `load` makes one. A misspelt name is met with the nearest ones."""

    names: tuple[str, ...] = ()

    def load(self, name: str) -> Any:
        """The click command of that name."""
        raise NotImplementedError

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with left_of_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with left_of_usage():
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.names)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.names:
            return None
        command = self.load(cmd_name)
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name == "help":
            # "help convert" is "convert --help", in groups within groups too.
            if len(args) == 1:
                typer.echo(ctx.get_help())
                raise typer.Exit()
            return self.resolve_command(ctx, [*args[1:], "--help"])
        if name not in self.names and not name.startswith("-"):
            hint = did_you_mean(name, self.names) or f" There are {', '.join(self.names)}."
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)
