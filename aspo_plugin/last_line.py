"""A refusal is the last line, also where a launcher stands between the run and its user.

torchrun, accelerate and the hosts' own commands end a failed run with tracebacks of their own, below the
one message that says what to change. The outermost launcher therefore names a file to the processes that it
starts; one that stops by an error of this package leaves its message there, and the launcher prints it as it
ends.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import tempfile
import traceback
from pathlib import Path
from types import TracebackType

VARIABLE = "ASPO_LAST_LINE"  # "<process id of the outermost launcher>:<file>"
_OURS = ("aspo_plugin", "dataset_tools")


def settle() -> None:
    """Take this process's part: to name the file and print it at the end, or to leave a message in it.

    For a launcher (`aspo_autoload.LAUNCHERS`) and the processes that it started, once in each.
    """
    owner, _, place = os.environ.get(VARIABLE, "").partition(":")
    if not place:
        # A name that nobody has: on a shared machine a file of another user's run may have this process id.
        name = f"aspo-last-line-{os.getpid()}-{secrets.token_hex(8)}"
        owner, place = str(os.getpid()), os.path.join(tempfile.gettempdir(), name)
        os.environ[VARIABLE] = f"{owner}:{place}"
    if owner == str(os.getpid()):  # also where the launcher has become another program
        atexit.register(_print, Path(place))
        return  # its own errors end in their message anyway
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if isinstance(error, Exception) and _is_ours(trace):
            Path(place).write_text(_told(error), encoding="utf-8")

    sys.excepthook = hook


def _told(error: Exception) -> str:
    """What the user reads of an error: pydantic's text, which Axolotl's schema raises, ends in an address."""
    errors = getattr(error, "errors", None)
    if type(error).__name__ != "ValidationError" or not callable(errors):
        return "".join(traceback.format_exception_only(error))
    return "".join(f"ValueError: {str(one['msg']).removeprefix('Value error, ')}\n" for one in errors())


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether the error was raised in this package, or in what it called."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return any(frame.f_globals.get("__name__", "").partition(".")[0] in _OURS for frame in frames)


def _print(place: Path) -> None:
    try:
        text = place.read_text(encoding="utf-8")
        place.unlink()
    except OSError:  # nothing went wrong, or nothing of ours
        return
    sys.stderr.write(f"\n{text}")
