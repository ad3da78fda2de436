"""The errors that the data tools raise on purpose: two end a command, two concern one row."""

from __future__ import annotations


class DataError(Exception):
    """The data or the run failed: exit code 1. The message says what was found and what to do."""


class UsageError(Exception):
    """What was asked for cannot be done: exit code 2. The message says what was set and what is valid."""


class BadRow(Exception):
    """The row cannot be used: it goes to the rejected file with this reason."""


class SkippedPair(Exception):
    """A pair that the source's recipe leaves out (a tie, say): counted under this reason, not rejected."""
