"""Lists within a line, "1. A lamp 2. A desk": their markers end no sentence."""

from __future__ import annotations

import re

_INLINE_MARKER = re.compile(r"(?<!\S)\(?(\d{1,2}|[A-Za-z])[.)](?=\s)")
_BEFORE_LIST = re.compile(r"(?:\A|[.!?…:;。！？：；।؟\n][\"'”’»)*_⟩]*)\s*\Z")


class InlineLists:
    """The lists of one block, looked for when first asked about."""

    def __init__(self, text: str, own_marker: str) -> None:
        """`own_marker`: what stands before the block, where it is an entry of a list itself."""
        self._text, self._own_marker = text, own_marker
        self._places: dict[str, tuple[int, int]] | None = None
        self._ends: set[int] = set()

    def is_marker(self, word: str, start: int) -> bool:
        """Whether "2." has its "1." before it, or "1." its "2." after it: "1. A lamp 2. A desk"."""
        if self._places is None:
            self._places, self._ends = self._find()
        previous, following = _neighbours(word)
        if previous in self._places:
            return self._places[previous][0] < start
        return start in self._ends and following in self._places and self._places[following][1] > start

    def _find(self) -> tuple[dict[str, tuple[int, int]], set[int]]:
        """First and last place of each marker of an inline list, and where markers end.

        A list begins where a marker could: at the start, behind a stop or a colon, or with the marker of the
        block itself. "Number 7. ... number 8." is no list.
        """
        found: dict[str, tuple[int, int]] = {}
        ends = set()
        own = _INLINE_MARKER.search(self._own_marker)
        second = _neighbours(own[1])[1] if own else None
        for match in _INLINE_MARKER.finditer(self._text):
            marker = match[1]
            known = marker == second or _neighbours(marker)[0] in found
            if known or _BEFORE_LIST.search(self._text, max(0, match.start() - 8), match.start()):
                first, _ = found.get(marker, (match.start(), 0))
                found[marker] = (first, match.start())
                ends.add(match.end(1))
        return found, ends


def _neighbours(marker: str) -> tuple[str, str]:
    """The markers before and after one in a list; a marker itself where it has none."""
    if marker.isdecimal():
        return str(int(marker) - 1), str(int(marker) + 1)
    if len(marker) == 1:
        return chr(max(0, ord(marker) - 1)), chr(min(ord(marker) + 1, 0x10FFFF))
    return marker, marker
