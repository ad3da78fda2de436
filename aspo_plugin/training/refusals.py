"""Why a row is refused: one table of reasons for every host, and the gate of every reader of rows.

What a row holds is not ours, and what an odd value makes a library raise is not known beforehand. So whatever
is raised while a row is read refuses that row; only `StopRun`, for what is wrong with more than one, goes on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Code -> what the user reads; `{limit}` is what a host calls its limit of tokens, the rest in `_REMEDIES`.
REASONS: dict[str, str] = {
    "turns": "the prompt does not end with a user's turn, or a response is missing",
    "empty": "a response is empty",
    "unread": "the row cannot be read as a prompt with two responses",
    "image": "an image cannot be read",
    "no_image": "the model takes no pair without an image",
    "media": "a video or a sound cannot be read, or the template takes none",
    "markers": "the number of <image>, <video> or <audio> markers differs from the number of images, videos "
    "or sounds",
    "stray_token": "a text holds an image token where there is no image",
    "image_tokens": "`{limit}` would cut image tokens: raise it, or {smaller_images}",
    "media_tokens": "`{limit}` would cut tokens of a video or a sound: raise it, or {smaller_videos}",
    "too_long": "`{limit}` leaves no room for the prompt or for a response: raise it",
    "rewritten": "the template rewrites the response so that its sentences cannot be found in the tokens",
    "sentences": "its sentences are not spans of the response, one behind the other",
    "prefix": "its untrained prefix is not what both responses begin with",
    "similarity": "there are more or fewer similarities than sentences, or one is infinite",
}
# By that name, which tells the hosts apart.
_REMEDIES = {
    "cutoff_len": {
        "smaller_images": "lower `image_max_pixels`",
        "smaller_videos": "lower `video_maxlen` or `video_max_pixels`",
    },
    "sequence_len": {"smaller_images": "bound images by `processor_kwargs`, such as max_pixels"},
    "max_length": {"smaller_images": "give a processor with smaller images (its max_pixels, say)"},
}
_ANYWHERE = {"smaller_images": "make images smaller", "smaller_videos": "make videos smaller"}
_LONGEST = 200


class RefusedRow(ValueError):
    """A row that cannot be trained on: a key of `REASONS`, and what is the matter with this row."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, printable(detail)

    def __str__(self) -> str:
        text = message(self.reason, "the limit of tokens")
        return f"{text} ({self.detail})" if self.detail else text


class StopRun(ValueError):
    """What is wrong with a setting, the model or a whole dataset, and not with one row: it ends the run."""


def message(reason: str, limit: str) -> str:
    """What the user reads of a reason, where a host calls its limit of tokens `limit`."""
    return REASONS[reason].format(limit=limit, **{**_ANYWHERE, **_REMEDIES.get(limit, {})})


def explained(refused: Sequence[Mapping[str, Any]], limit: str) -> str:
    """How many rows were refused for which reason, with what was the matter with the first of each."""
    first = {row["reason"]: row["detail"] for row in reversed(refused)}
    counted = Counter(row["reason"] for row in refused).most_common()
    return "; ".join(
        f"{count} \N{MULTIPLICATION SIGN} {message(reason, limit)}"
        + (f" (as {first[reason]})" if first[reason] else "")
        for reason, count in counted
    )


def printable(text: str) -> str:
    """The first line of a text that may quote a stranger's, cut, and without what controls a terminal."""
    line = str(text).strip().partition("\n")[0][:_LONGEST]
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line
    )


def read_row(
    read: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result | RefusedRow:
    """What `read` makes of a row, or why that row is refused."""
    try:
        return read(*args, **kwargs)
    except RefusedRow as refusal:
        return refusal
    except (StopRun, MemoryError):
        raise
    except Exception as error:
        return RefusedRow("unread", f"{type(error).__name__}: {error}")


@contextmanager
def dataset_faults(name: str) -> Iterator[None]:
    """Whatever a damaged or odd file of the dataset `name` makes its reader raise, as one `StopRun`.

    A host's own `ValueError` and what the system says of a file (there is none, ...) are messages already.
    """
    try:
        yield
    except (StopRun, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if type(error) is ValueError:
            raise
        cause: BaseException = error
        while cause.__cause__ is not None:  # `datasets` wraps the reader's own words
            cause = cause.__cause__
        told = printable(str(cause)).rstrip(".") or type(cause).__name__
        file = _read_when(error)
        where = f", file {file}" if file else ""
        raise StopRun(
            f"dataset {name} cannot be read{where}: {told}. Mend the file, or take the dataset out."
        ) from error


def _read_when(error: BaseException) -> str:
    """The file that a reader of `datasets` had open when it failed, "" where that is not known."""
    found, seen = "", set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        step = current.__traceback__
        while step is not None:
            if step.tb_frame.f_globals.get("__name__", "").startswith("datasets.packaged_modules."):
                found = str(step.tb_frame.f_locals.get("file") or found)
            step = step.tb_next
        current = current.__cause__ or current.__context__
    return found


def checked_spans(
    given: Sequence[Mapping[str, int] | Sequence[int]], text: str, side: str
) -> list[tuple[int, int]]:
    """The sentences of a response as `(start, end)`; `RefusedRow` where they are no spans of `text`."""
    spans, before = [], 0
    for item in given:
        start, end = (item["start"], item["end"]) if isinstance(item, Mapping) else item
        whole = all(isinstance(place, int) for place in (start, end))
        if not whole or not before <= start < end <= len(text):
            raise RefusedRow(
                "sentences", f"{side}_sentences has [{start}, {end}) in a response of {len(text)} characters"
            )
        spans.append((start, end))
        before = end
    return spans


def checked_prefix(length: int | None, chosen: str, rejected: str) -> int:
    """How many characters both responses begin with that are not trained; `RefusedRow` where they differ."""
    length = length or 0
    if length < 0 or chosen[:length] != rejected[:length]:
        raise RefusedRow("prefix", f"untrained_prefix is {length}, but the responses differ before")
    return length


def checked_similarities(
    values: Sequence[float | None] | None, sentences: int, side: str
) -> list[float | None] | None:
    """The similarities of a response's sentences, or None; `RefusedRow` where they cannot be theirs."""
    if values is None:
        return None
    if len(values) != sentences:
        raise RefusedRow(
            "similarity", f"{side}_similarity has {len(values)} values for {sentences} sentences"
        )
    if any(value is not None and math.isinf(value) for value in values):
        raise RefusedRow("similarity", f"{side}_similarity has an infinite value: {list(values)}")
    return list(values)
