"""An error's message, left for the launcher (torchrun, accelerate) that ends below it in words of its own.

The launcher asks for it by an environment variable and prints it last: `aspo_plugin/last_line.py`, which sees
the errors that a process does not catch. A command of this tool reports its own and leaves quietly.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "ASPO_LAST_LINE"  # "<process id of the outermost launcher>:<file>"


def leave(text: str) -> None:
    """Put `text` where the outermost launcher looks as it ends, if there is one."""
    owner, _, place = os.environ.get(VARIABLE, "").partition(":")
    if place and owner != str(os.getpid()):
        with suppress(OSError):
            Path(place).write_text(f"{text}\n", encoding="utf-8")


@contextmanager
def left_of_usage() -> Iterator[None]:
    """Leaves what a wrong option or argument is told, which typer itself prints."""
    from dataset_tools.cli.output import printable, redact

    try:
        yield
    except Exception as error:
        told = getattr(error, "format_message", None)
        if told:
            leave(printable(redact(f"error: {told()}")))
        raise
