"""Sentences of a response: `split_sentences(text)` gives exact character offsets for any text.

syntok finds the sentences of prose. Around it, `blocks` cuts the text into lines that belong together,
`masks` hides what must not be read as the end of a sentence, and `rules` decides what syntok is known to
miss. See docs/sentences.md for what counts as a sentence.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

from dataset_tools.sentences.blocks import blocks
from dataset_tools.sentences.languages import languages_of
from dataset_tools.sentences.rules import cuts

RULES_VERSION = 4
"""Changes whenever the rules split any text otherwise than before."""

__all__ = ["RULES_VERSION", "SPLITTER_VERSION", "split_sentences"]  # noqa: F822


@cache
def _splitter_version() -> str:
    from importlib.metadata import version

    return f"{RULES_VERSION}+syntok{version('syntok')}"


def __getattr__(name: str) -> str:
    """`SPLITTER_VERSION`: the version of the rules and of syntok, recorded in every dataset."""
    if name == "SPLITTER_VERSION":
        return _splitter_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def split_sentences(text: str, start: int = 0) -> list[tuple[int, int]]:
    """The sentences of `text` from character `start` on, as (start, end) character offsets.

    For every text the spans are in order, do not overlap, are not empty, neither start nor end with white
    space, and hold every character from `start` on that is not white space. The result depends on that text
    alone. Takes time linear in the length of the text.
    """
    if start:
        return [(begin + start, end + start) for begin, end in split_sentences(text[start:])]
    starts = []
    languages = languages_of(text)
    for block in blocks(text):
        starts.append(block.start)
        if not block.is_unit:
            starts += [
                block.start + cut for cut in cuts(text[block.start : block.end], block.marker, languages)
            ]
    spans: list[tuple[int, int]] = []
    for begin, end in pairwise([*starts, len(text)]):
        piece = text[begin:end]
        stripped = piece.strip()
        if not stripped:
            continue
        begin += len(piece) - len(piece.lstrip())
        if spans and not any(map(str.isalnum, stripped)):
            # Rules, stray marks and lone emoji say nothing by themselves.
            spans[-1] = (spans[-1][0], begin + len(stripped))
        else:
            spans.append((begin, begin + len(stripped)))
    return spans
