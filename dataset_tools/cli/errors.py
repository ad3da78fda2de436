"""One table from exception to message and exit code: 0 ok, 1 failed, 2 usage, 130 Ctrl-C."""

from __future__ import annotations

import errno
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from shlex import quote
from typing import Any

import typer

from dataset_tools import installed
from dataset_tools.cli.last_line import leave
from dataset_tools.cli.output import echo, note, printable, redact, warn

_traceback = False
_own_process = False


def show_traceback(wanted: bool) -> None:
    """Whether a reported error is followed by its traceback (`--traceback`)."""
    global _traceback
    _traceback = wanted


def own_process() -> None:
    """Say that this process is `aspo-data` and nothing else, so that pyarrow may do without pandas in it."""
    global _own_process
    _own_process = True
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal (cp1252, say) has no letter for


def _how(command: str) -> str:
    """How the same command is run once more after it stopped half-way."""
    return "with --resume" if command in ("convert", "generate") else "again"


def _stopped(error: Any, command: str) -> str:
    return f"stopped. Run the same command {_how(command)} to go on."


def _os_error(error: Any, command: str) -> str:
    if error.errno == errno.ENOSPC or error.errno == errno.EDQUOT:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"the disk is full{where}. Free some space, then run the same command {_how(command)}."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


# Exceptions by full name, so that no library is imported for its error classes. The first match in the
# exception's class order wins; a message is a format string over the exception, or a function of it and of
# the command's name.
TABLE: dict[str, tuple[int, str | Callable[[Any, str], str]]] = {
    "dataset_tools.errors.UsageError": (2, "{0}"),
    "dataset_tools.errors.DataError": (1, "{0}"),
    "builtins.KeyboardInterrupt": (130, _stopped),
    "builtins.MemoryError": (1, "out of memory. Fewer --workers need less."),
    "huggingface_hub.errors.GatedRepoError": (
        1,
        "access to this repository must be granted on its Hub page first, then `hf auth login`. {0}",
    ),
    "huggingface_hub.errors.RepositoryNotFoundError": (
        1,
        "no such dataset on the Hub, or it is private: check the name, or run `hf auth login`. {0}",
    ),
    "huggingface_hub.errors.RevisionNotFoundError": (1, "no such --revision on the Hub. {0}"),
    "huggingface_hub.errors.EntryNotFoundError": (1, "no such file on the Hub. {0}"),
    "huggingface_hub.errors.HFValidationError": (2, "{0}"),
    "huggingface_hub.errors.OfflineModeIsEnabled": (1, "HF_HUB_OFFLINE is set, so the Hub is not asked. {0}"),
    "huggingface_hub.errors.LocalTokenNotFoundError": (1, "no Hub token found: run `hf auth login` first."),
    "huggingface_hub.errors.HfHubHTTPError": (1, "the Hub answered with an error. {0}"),
    "pyarrow.lib.ArrowInvalid": (1, "a parquet file cannot be read: {0}"),
    "torch.OutOfMemoryError": (1, "the GPU's memory ran out: a smaller --batch-size needs less. {0}"),
    "builtins.ImportError": (1, "{0}"),
    "builtins.OSError": (1, _os_error),
}


_SCORE = "aspo-data score {out} (or let the host score before training, by aspo_similarity_model)"


def _after_stats(arguments: dict[str, Any]) -> str:
    from dataset_tools.dataset.record import read_record

    scored = read_record(arguments["out"]).get("scorer")
    return "aspo-data preview {out} --html preview.html" if scored else _SCORE


NEXT: dict[str, str | Callable[[dict[str, Any]], str]] = {
    "generate": "aspo-data convert {out} {made}, then aspo-data score {made}",
    "convert": _SCORE,
    "score": "aspo-data stats {out}, then aspo-data preview {out} --html preview.html",
    "stats": _after_stats,
    "preview": "aspo-data validate {out}",
    "validate": "train on {out} (`dataset_dir` or, in Axolotl, `path`), or aspo-data push {out} OWNER/NAME",
    "make": "put these lines into a recipe (`aspo recipes list` names them all) and train",
    "pull": "aspo-data stats {out}, then train on it",
}
"""What mostly follows a command that went well."""


_within_another = False


@contextmanager
def within_another() -> Iterator[None]:
    """For commands that are steps of another one, which takes the next step itself: none is named."""
    global _within_another
    before, _within_another = _within_another, True
    try:
        yield
    finally:
        _within_another = before


def _name_next_step(command: str, arguments: dict[str, Any]) -> None:
    first = not int(os.environ.get("RANK") or 0)
    if command in NEXT and first and not _within_another and not arguments.get("dry_run"):
        step = NEXT[command]
        text = step(arguments) if callable(step) else step
        named = {**arguments, "made": f"{arguments.get('out')}-aspo"}
        note("next: " + text.format(**{name: quote(str(value)) for name, value in named.items()}))


def describe(error: BaseException, command: str) -> tuple[int, str] | None:
    """Exit code and message of a command's error; None for an unknown one: its traceback is worth seeing."""
    for kind in type(error).__mro__:
        entry = TABLE.get(f"{kind.__module__}.{kind.__qualname__}")
        if entry:
            code, message = entry
            text = message(error, command) if callable(message) else message.format(error)
            return code, redact(shortened(text))
    return None


def shortened(text: str, longest: int = 3000) -> str:
    """A message with its middle left out where nobody would read all of it."""
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]} [... {len(text) - longest:,} characters ...] {text[-longest // 3 :]}"


def reported(function: Callable[..., Any]) -> Callable[..., Any]:
    """The command with its errors printed to stderr as one message and turned into an exit code."""

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> Any:
        try:
            if _own_process:
                from dataset_tools.dataset.arrow import settle_pandas

                settle_pandas(without=True)
            foreign = installed.warning()
            if foreign:
                warn(foreign)
            function(*args, **kwargs)
            _name_next_step(function.__name__, kwargs)
        except (Exception, KeyboardInterrupt) as error:
            if type(error).__module__.partition(".")[0] in ("typer", "click"):
                raise
            known = describe(error, function.__name__)
            if known is None or _traceback:
                import traceback

                echo("".join(traceback.format_exception(error)), err=True, nl=False)
            code, message = known or (1, f"unexpected {type(error).__name__}: please report it.")
            sys.stdout.flush()
            echo(f"error: {message}", err=True)
            leave(printable(redact(f"error: {message}")))
            raise typer.Exit(code) from None

    return command
