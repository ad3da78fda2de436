"""What a command prints: its result to stdout, everything else (notes, warnings, progress) to stderr."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from typing import Any

import typer

# Tokens of today's form and of the ones before, which the Hub still takes.
_TOKEN = re.compile(r"\b(?:hf|api|api_org)_[A-Za-z0-9]{6,}")
_CREDENTIALS = re.compile(r"(://)[^/\s@\"']+@")
_BEARER = re.compile(r"(\bbearer\s+)[^\s\"',]+", re.IGNORECASE)
# Control characters but tab and newline, and the marks that turn the reading direction round.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


CLEARED = "\r\x1b[K"
"""To a terminal: the line begins anew."""


def redact(text: str) -> str:
    """`text` without Hub tokens and without names and passwords in addresses."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        secret = os.environ.get(name)
        if secret and len(secret) > 3:
            text = text.replace(secret, "hf_***")
    return _BEARER.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", _TOKEN.sub("hf_***", text)))


def printable(text: str, encoding: str | None = None) -> str:
    """`text` as a terminal may show it: what would control the terminal is escaped, as in JSON.

    So is what `encoding` (cp1252, say) has no character for.
    """
    text = _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")
    except LookupError:
        pass
    return text


def echo(text: str, err: bool = False, nl: bool = True) -> None:
    """Print a text that may hold anything: without secrets, and without what controls a terminal."""
    stream = sys.stderr if err else sys.stdout
    if Progress.open and stream.isatty():  # the text takes the place of the progress line, which comes again
        print(CLEARED, end="", file=stream, flush=True)
        Progress.open = False
    typer.echo(printable(redact(text), getattr(stream, "encoding", None)), err=err, nl=nl)


def note(text: str) -> None:
    """A line for the person at the terminal (stderr)."""
    echo(text, err=True)


def warn(text: str) -> None:
    """A line that should not be overlooked (stderr)."""
    echo(f"warning: {text}", err=True)


def result(value: dict[str, Any], text: str, as_json: bool) -> None:
    """The command's result to stdout: `value` as one JSON document with `--json`, else `text`."""
    echo(json.dumps(value, ensure_ascii=False, indent=2) if as_json else text)


class Progress:
    """Counted progress on stderr: one line rewritten in place on a terminal, plain lines elsewhere.

    ```python
    with Progress("convert", total=rows, unit="rows") as progress:
        progress.advance(100)
    ```
    `total` None means that it is not known: no percentage and no time left then. `silent` shows nothing.
    """

    open = False
    """Whether a line stands on the terminal that will be rewritten."""

    def __init__(
        self,
        label: str,
        total: int | None = None,
        unit: str = "rows",
        done: int = 0,
        every: float = 10.0,
        silent: bool = False,
    ):
        self._silent = silent
        self.label, self.total, self.unit, self.done = label, total, unit, done
        # Where the rate is counted from: the first advance, which may be what an earlier run had done,
        # after a model has loaded.
        self._first: tuple[int, float] | None = None
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else every
        self._shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int = 1) -> None:
        self.done += count
        now = time.monotonic()
        self._first = self._first or (self.done, now)
        if self.done == self.total and not self._terminal:
            return  # the end shows it: a log has one line of the whole
        if now - self._shown >= self._every and not (self._terminal and _bars()):
            self._shown = now
            self._show()

    def begin(self, label: str, unit: str, total: int) -> None:
        """Count something else from here on."""
        if self.done:
            self._end()
        self.label, self.unit, self.total = label, unit, total
        self.done, self._first = 0, None

    def line(self) -> str:
        """What is shown now: done, share, rate and time left."""
        rate = 0.0
        if self._first and self.done > self._first[0]:
            rate = (self.done - self._first[0]) / max(time.monotonic() - self._first[1], 1e-9)
        text = f"{self.label}: {self.done:,}"
        if self.total:
            text += f" of {self.total:,} {self.unit} ({min(self.done / self.total, 1):.0%})"
        else:
            text += f" {self.unit}"
        if rate:
            text += f", {rate:,.0f}/s" if rate >= 10 else f", {rate:.1f}/s"
        if self.total and rate and self.done < self.total:
            text += f", {_clock((self.total - self.done) / rate)} left"
        return text

    def _show(self) -> None:
        if self._silent:
            return
        end = "" if self._terminal else "\n"
        start, line = CLEARED if self._terminal else "", self.line()
        if self._terminal:  # a line that wraps could not be rewritten
            line = line[: max(shutil.get_terminal_size().columns - 1, 20)]
        print(start + line, end=end, file=sys.stderr, flush=True)
        Progress.open = self._terminal

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind and self._first is None:
            return  # the error that follows says more
        self._end()

    def _end(self) -> None:
        self._show()
        if self._terminal and not self._silent:
            print(file=sys.stderr, flush=True)
            Progress.open = False


def _bars() -> int:
    """How many bars of tqdm are up: the Hub's, of a download, which would share the line with ours."""
    module = sys.modules.get("tqdm.std")
    return len(getattr(module.tqdm, "_instances", ())) if module else 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
