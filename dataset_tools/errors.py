"""The two errors that the data tools raise on purpose; the command line turns them into exit codes."""

from __future__ import annotations


class DataError(Exception):
    """The data or the run failed: exit code 1. The message says what was found and what to do."""


class UsageError(Exception):
    """What was asked for cannot be done: exit code 2. The message says what was set and what is valid."""
