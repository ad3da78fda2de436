"""The blocks of a response: runs of lines in which sentences are looked for, and units that are never cut.

A line break ends a sentence, except where a line is visibly the continuation of the one above. A fenced code
block, display maths, a table row, a heading and a line with nothing but a tag are one unit each. List and
quote markers stay with the text they introduce.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Block(NamedTuple):
    """`text[start:end]`, whose first `marker` characters are list and quote markers; a unit is never cut."""

    start: int
    end: int
    marker: int
    is_unit: bool


_LINE = re.compile(r"[^\r\n\u2028\u2029]+")
_ENUMERATOR = r"(?:\d{1,3}|[A-Za-z]|[ivxIVX]{2,5})"
_QUOTE_MARK = re.compile(r"\s*>[\s>]*")
_MARKER = re.compile(
    r"\s*(?:>[\s>]*)?"
    r"(?:(?:[-*+]|[•‣▪▫■□●○◦◆◇★☆►▶➢➤→·–—](?!\S{0,2}\d))(?:\s+\[[ xX]\])?(?:\s+|\Z)"
    rf"|(?:\*\*|__)?(?:\(?{_ENUMERATOR}[.)](?:\s+|\Z)|{_ENUMERATOR}\.(?=[^\x00-\u2fff]))"
    r"|（[^（）\s]{1,3}）\s*|\d{1,3}[、．）]\s*|[一二三四五六七八九十]{1,3}[、．]\s*|[①-⓿❶-➓]\s*)?"
)
_HEADING = re.compile(r"\s*#{1,6}\s")
_FENCE = re.compile(r"\s*(?:>\s*)?(?:[-*+]\s+|\d{1,3}[.)]\s+)?(`{3,}|~{3,})")
_TAG_LINE = re.compile(r"\s*</?[A-Za-z][\w-]{0,30}>\s*\Z")
_ENVIRONMENT = re.compile(r"\\begin(\{[a-zA-Z]{1,20}\*?\})")
_DOLLARS = re.compile(r"(?<!\$)\$\$(?!\$)")
_LONGEST_DISPLAY = 3000
"""Display maths longer than this many characters is read as ordinary text: its closer is missing."""

_LINE_ENDS = frozenset('.!?:;…。！？：；｡．؟۔।"”’」』|')
_WRAPPED_WIDTH = 20
"""A line shorter than this many characters is not taken for a wrapped one, half of it after an open word."""
# A line that ends with one of these words goes on in the next one, whatever that one starts with.
_OPEN_WORDS = frozenset(
    "a an the of in on at to for from with by and or but nor as is are was were be that which who whose its "
    "his her their our my your these those into onto near between behind through about than".split()
)


def blocks(text: str) -> Iterator[Block]:
    """The blocks of `text` in order. Every character that is not white space is in exactly one of them."""
    lines = [match.span() for match in _LINE.finditer(text) if not match[0].isspace()]
    index, in_table = 0, False
    while index < len(lines):
        start, end = lines[index]
        line = text[start:end]
        unit = _unit(text, line, lines, index)
        if unit:
            yield Block(start, lines[unit - 1][1], 0, True)
            index, in_table = unit, False
            continue
        if "|" in line:
            in_table = in_table or _starts_table(text, line, lines, index)
            if in_table or _is_row(line):
                yield Block(start, end, 0, True)
                index += 1
                continue
        in_table = False
        match = _MARKER.match(line)
        marker = match.end() if match else 0
        index = _display_end(text, lines, index) + 1
        while index < len(lines) and _continues(text, lines, index, bare=start + marker >= end):
            index = _display_end(text, lines, index) + 1
        yield Block(start, lines[index - 1][1], marker, False)


def _unit(text: str, line: str, lines: list[tuple[int, int]], index: int) -> int:
    """The index of the first line after the unit that starts at `index`; 0 where none starts."""
    if "```" in line or "~~~" in line:
        fence = _FENCE.match(line)
        # An inline span in three back quotes closes on its own line.
        if fence and not (fence[1][0] == "`" and "`" in line[fence.end() :]):
            closer = fence[1]
            for later in range(index + 1, len(lines)):
                if text[slice(*lines[later])].lstrip(" \t>").startswith(closer):
                    return later + 1
            return len(lines)
    first = line.lstrip()[0]
    if first == "#" and _HEADING.match(line) or first == "<" and _TAG_LINE.match(line):
        return index + 1
    if first in "\\$" and line.lstrip().startswith(("\\[", "$$", "\\begin{")):
        last = _display_end(text, lines, index)
        return last + 1 if last > index else 0
    return 0


def _display_end(text: str, lines: list[tuple[int, int]], index: int) -> int:
    """The index of the line where display maths opened on line `index` closes; `index` where none is open."""
    start, end = lines[index]
    closer = ""
    if text.find("$$", start, end) >= 0 and len(_DOLLARS.findall(text, start, end)) % 2:
        closer = "$$"
    elif text.find("\\[", start, end) >= 0:
        if text.find("\\]", text.rfind("\\[", start, end), end) < 0:
            closer = "\\]"
    elif text.find("\\begin{", start, end) >= 0:
        environment = _ENVIRONMENT.search(text, start, end)
        if environment and text.find("\\end" + environment[1], environment.end(), end) < 0:
            closer = "\\end" + environment[1]
    close = text.find(closer, end, end + _LONGEST_DISPLAY) if closer else -1
    if close >= 0:
        while lines[index][1] < close + len(closer):
            index += 1
    return index


def _is_row(line: str) -> bool:
    line = line.strip()
    return line.startswith("|") and line.count("|") > 1


def _is_table_rule(line: str) -> bool:
    return "--" in line and not line.strip("|:- \t")


def _starts_table(text: str, line: str, lines: list[tuple[int, int]], index: int) -> bool:
    """Whether this line, or the one after it, is the rule below the head of a table."""
    if _is_table_rule(line):
        return True
    if index + 1 == len(lines) or lines[index + 1][0] - lines[index][1] > 2:
        return False
    after = text[slice(*lines[index + 1])]
    return "|" in after and _is_table_rule(after)


def _continues(text: str, lines: list[tuple[int, int]], index: int, bare: bool) -> bool:
    """Whether line `index` continues the line above; `bare` says that the block has only a marker so far."""
    above_start, above_end = lines[index - 1]
    start, end = lines[index]
    if text[above_end:start] not in ("\n", "\r\n", "\r", "\u2028"):
        return False
    line = text[start:end]
    above = text[above_start:above_end]
    if line.lstrip()[0] == ">":
        if above.lstrip()[0] != ">":
            return False
        quote = _QUOTE_MARK.match(line)
        line = line[quote.end() :] if quote else line
    elif above.lstrip()[0] == ">":
        return False
    first = line.lstrip()[:1]
    if not first.isalnum() and first not in tuple("\"'“‘(*_`"):
        return False
    marker = _MARKER.match(line)
    if marker and marker.end() > len(line) - len(line.lstrip()):
        return False
    if bare:
        return True
    above = above.rstrip()
    if above[-1] in _LINE_ENDS:
        return False
    if first.islower() and len(above) >= _WRAPPED_WIDTH:
        return True
    return len(above) >= _WRAPPED_WIDTH // 2 and above[-40:].rpartition(" ")[2].lower() in _OPEN_WORDS
