"""Ctrl-C ends a console script with one line and exit code 130, also while it is still importing."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable


def interruptible(main: Callable[[], None]) -> Callable[[], None]:
    """The entry point `main` without the traceback of a KeyboardInterrupt."""

    @functools.wraps(main)
    def run() -> None:
        try:
            main()
        except KeyboardInterrupt:
            print("error: stopped.", file=sys.stderr)
            raise SystemExit(130) from None

    return run
