"""The gate that every row and file of a source passes: a fault refuses the row, or is one message of a file.

What a source holds is not ours, and what odd values make a library raise is not known beforehand. So nothing
that is raised while a row is read, paired or annotated ends a run, and nothing raised by a reader of a file
goes further than to a `DataError` with the file's name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from dataset_tools.convert.chunks import Chunk
from dataset_tools.errors import BadRow, DataError, UsageError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")
_LONGEST = 200


def refused(error: BaseException) -> BadRow:
    """The reason under which a row is refused that made something raise `error`."""
    if isinstance(error, BadRow):
        return error
    text = str(error).strip().partition("\n")[0][:_LONGEST]
    return BadRow(f"the row cannot be read: {type(error).__name__}: {text}")


def refuses(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """A function of a row of which every exception is a `BadRow`."""

    @functools.wraps(function)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise refused(error) from error

    return guarded


def rows_of_chunk(chunk: Chunk) -> Iterator[Mapping[str, Any] | BadRow]:
    """One item per row of a chunk, as `Chunk.rows`; where that fails, all rows after it are refused."""
    rows, seen = iter(chunk.rows()), 0
    while seen < chunk.count:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            yield from [refused(error)] * (chunk.count - seen)
            return
        yield row
        seen += 1


@contextmanager
def file_faults(name: object) -> Iterator[None]:
    """Whatever a damaged or odd file makes its reader raise, as one `DataError` with its name."""
    try:
        yield
    except (DataError, UsageError, BadRow, GeneratorExit):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "huggingface_hub":
            raise  # an answer of the Hub has its own message
        text = str(error).strip().partition("\n")[0][:_LONGEST]
        raise DataError(f"{name} cannot be read: {text or type(error).__name__}") from error


def items_of_file(items: Iterable[Item], name: object) -> Iterator[Item]:
    """The items that a file's reader gives, its faults as `file_faults` has them."""
    with file_faults(name):
        iterator = iter(items)
    while True:
        with file_faults(name):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
