"""Where a block is cut: syntok proposes, and a short table of rules decides the cases it is known to miss.

A candidate is a run of stops with the closing marks and white space after it. A rule answers True (a sentence
ends here), False (none does) or None, which leaves the answer to syntok.
"""

from __future__ import annotations

import re
from functools import cache

from dataset_tools.sentences import words
from dataset_tools.sentences.masks import EMOJI, mask

_CANDIDATE = re.compile(
    r"([.!?…‼⁇⁈⁉。！？｡।॥۔؟]+)"
    r"([\"'”’」』)）\]】》⟩*_~`]*(?:\[\d{1,3}\](?!\())?)(\s*)"
)
_FULL_STOPS = frozenset("。！？｡।॥۔؟")
_QUOTES = frozenset("\"'”’」』")
_OPENERS = frozenset("\"'“‘「『(（[【《⟨*_~`¿¡#")
_NEXT_WORD = re.compile(r"[\"'“‘「『(（\[【《⟨*_~`¿¡#]*([^\W\d_]+(?:'[a-z]+)?)?")
_NEXT_MARKER = re.compile(r"[*_]*(?:\(?(?:\d{1,2}|[A-Za-z])[.)]|[①-⓿❶-➓]|[-•*–—])\s+\S")
_BARE_MARKER = re.compile(r"[*_\s]*\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})\Z")
_NUMBERED = re.compile(r"[*_\s]*([A-Za-z]+)\s+(?:\d{1,3}|[A-Z]|[IVX]{1,4})\Z")
_INLINE_MARKER = re.compile(r"(?<!\S)\(?(\d{1,2}|[A-Za-z])[.)](?=\s)")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,2}\Z")
_CONTRACTED = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*\Z")
_STRONG = frozenset("The It He She They There This These".split())
_ABBREVIATIONS = words.TITLES | words.REFERENCE_ONLY | words.ALWAYS_OPEN | words.SUFFIXES | words.DATES
_STRIP = "\"'“‘”’「」『』()（）[]【】《》⟨⟩*_~`,;:"


def cuts(block: str, marker: int = 0) -> list[int]:
    """Offsets into `block` at which a sentence starts, the first one left out."""
    masked = mask(block, marker)
    if not _CANDIDATE.search(masked) and block.isascii():
        return []
    if not block.isascii():
        masked = _emoji(masked)
    return _Cutter(masked).cuts()


def _emoji(masked: str) -> str:
    """Trailing emoji become white space, with a stop where they alone part two sentences; leading ones stay."""
    first = EMOJI.search(masked)
    if first is None or not masked[: first.start()].strip():
        return masked

    def replace(match: re.Match[str]) -> str:
        size = match.end() - match.start()
        before = masked[max(0, match.start() - 2) : match.start()].rstrip()
        after = _NEXT_WORD.match(masked, match.end() + 1)
        parts = (
            before[-1:].islower() and masked[match.end() : match.end() + 1] == " "
            and after is not None and after[1] in words.STARTERS
        )  # fmt: skip
        return ("." if parts else " ") + " " * (size - 1)

    return EMOJI.sub(replace, masked)


class _Cutter:
    """One masked block on its way to its cuts."""

    def __init__(self, masked: str):
        self.text = masked
        self.sentence = 0
        self._proposals: frozenset[int] | None = None
        self._inline: dict[str, tuple[int, int]] | None = None

    def cuts(self) -> list[int]:
        found = []
        text, size = self.text, len(self.text)
        for match in _CANDIDATE.finditer(text):
            stop, after = match.start(), match.end()
            if after == size:
                break
            if not text[self.sentence : stop].strip():
                continue
            verdict = self._verdict(match)
            if verdict is None:
                verdict = _past_openers(text, after) in self._syntok()
            if verdict:
                self.sentence = after
                found.append(after)
        return found

    def _verdict(self, match: re.Match[str]) -> bool | None:
        stops, closers, space = match.groups()
        text, start, after = self.text, match.start(), match.end()
        char = text[after]
        before = text[start - 1] if start else " "
        if not _FULL_STOPS.isdisjoint(stops) or (stops[-1] in ".!?" and _is_cjk(before) and not char.isdigit()):
            return self._full_width(stops, closers, space, char)
        if not space:
            return self._no_space(stops, closers, before, char, after)
        if _NEXT_MARKER.match(text, after) and (self._word(start)[-1:].islower() or before in ")%\"'"):
            return True
        word = self._word(start)
        following = _NEXT_WORD.match(text, after)
        next_word = following[1] or "" if following else ""
        if "…" in stops or ".." in stops:
            return self._ellipsis(start, before, closers, next_word)
        if "." not in stops:
            return self._exclamation(word, closers, next_word, char)
        if len(stops) > 1:
            return not next_word[:1].islower()
        return self._full_stop(start, word, closers, next_word, char)

    def _full_width(self, stops: str, closers: str, space: str, char: str) -> bool | None:
        if char in "，、；：,;:）)」』”’":
            return False
        if not _QUOTES.isdisjoint(closers) and not space:
            if stops[-1] not in "。｡.।":
                return False
            return not char.startswith(words.AFTER_JAPANESE_QUOTE + words.AFTER_CHINESE_QUOTE)
        return True

    def _no_space(self, stops: str, closers: str, before: str, char: str, after: int) -> bool:
        """Two sentences written without a space between them: "blue.The grass"."""
        if len(stops) > 3 or stops in ("..", "…", "..."):
            return False
        if "⟩" in closers:
            return char.isupper() or not char.isascii()
        if closers.strip("*_"):
            return False
        if _is_cjk(char):
            return before.islower() and self._word(after - len(stops) - len(closers)).lower() not in _ABBREVIATIONS
        if not char.isupper() or not before.islower():
            return False
        word = self._word(after - len(stops) - len(closers))
        following = self.text[after + 1 : after + 2]
        return word.isalpha() and len(word) > 1 and (following.islower() or following in " '")

    def _ellipsis(self, start: int, before: str, closers: str, next_word: str) -> bool | None:
        if next_word[:1].islower():
            return False
        if before.isspace():
            return next_word in words.STARTERS
        if not _QUOTES.isdisjoint(closers):
            return None
        return len(self.text[self.sentence : start].split(None, 3)) >= 3

    def _exclamation(self, word: str, closers: str, next_word: str, char: str) -> bool | None:
        if not next_word:
            return None if char.isascii() and not char.isdigit() else char not in "，、；："
        if next_word[0].islower():
            return not closers.strip("*_") and word.islower()
        return None if not _QUOTES.isdisjoint(closers) else True

    def _full_stop(self, start: int, word: str, closers: str, next_word: str, char: str) -> bool | None:
        lower = word.lower()
        first = next_word[:1]
        sentence = self.text[self.sentence : start]
        if len(sentence) < 30 and not closers:
            if _BARE_MARKER.match(sentence):
                return False
            numbered = _NUMBERED.match(sentence)
            if numbered and numbered[1].lower() in words.NUMBERED and first.isupper():
                return False
        starter = next_word in words.STARTERS
        if lower in words.ALWAYS_OPEN:
            return False
        if lower in words.REFERENCES and not closers:
            if char.isdigit() or char == "(" or (len(next_word) == 1 and lower != "no" and next_word not in "AI"):
                return False
            if first.isupper():
                return True if word.islower() or starter else None
            if first:
                return lower not in words.REFERENCE_ONLY and word == lower
            return None
        if lower in words.TITLES and word != lower:
            return next_word in _STRONG
        if lower in words.SUFFIXES:
            if first.islower() or char in "(,":
                return False
            return True if starter or lower == "etc" and first.isupper() else None
        if lower in words.DATES and word != lower:
            return False if char.isdigit() else None
        if _DOTTED.match(word):
            if lower in ("a.m", "p.m"):
                return first.isupper() and next_word not in words.ZONES or (None if not first else False)
            return starter or (None if not first else False)
        if len(word) == 1 or word.isdigit():
            return self._single(start, word, next_word, char)
        if first.islower():
            return self._before_lower_case(word, lower, closers)
        if char.isdigit():
            return True if word.islower() or not word.isalpha() or len(word) > 4 else None
        if first and not first.isupper():
            return True
        if first and word[-1:].isdigit():
            return True
        return True if lower in words.SYNTOK_MISTAKES and word == lower else None

    def _single(self, start: int, word: str, next_word: str, char: str) -> bool | None:
        """A single letter or digit: an initial, the marker of an inline list, an option, or a plain value."""
        if len(word) < 3 and self._is_inline_marker(word, start):
            return False
        if not word.isalpha():
            return True if next_word or char.isdigit() else None
        if not word.isupper():
            return next_word[:1].isupper() or None
        if next_word[:1].islower():
            return False
        above = self._word(start - 2 if start > 1 else 0).lower()
        if next_word in words.STARTERS and next_word != "A":
            return above in words.LABELLED or None
        return False if above not in words.LABELLED else None

    def _before_lower_case(self, word: str, lower: str, closers: str) -> bool:
        """A sentence that starts in lower case after a word that is no abbreviation."""
        if closers.strip("*_⟩") or lower in _ABBREVIATIONS or lower in words.UNITS or len(word) < 2:
            return False
        if _CONTRACTED.match(word):
            return word.islower() or len(word) > 4
        return word[-1:].isdigit()

    def _is_inline_marker(self, word: str, start: int) -> bool:
        """Whether "2." has its "1." before it, or "1." its "2." after it, in one line: "1. A lamp 2. A desk"."""
        if self._inline is None:
            self._inline = {}
            for match in _INLINE_MARKER.finditer(self.text):
                first, _ = self._inline.get(match[1], (match.start(), 0))
                self._inline[match[1]] = (first, match.start())
        if word.isdecimal():
            previous, following = str(int(word) - 1), str(int(word) + 1)
        elif len(word) == 1:
            previous, following = chr(max(0, ord(word) - 1)), chr(min(ord(word) + 1, 0x10FFFF))
        else:
            return False
        if previous in self._inline:
            return self._inline[previous][0] < start
        return following in self._inline and self._inline[following][1] > start

    def _word(self, end: int) -> str:
        """The word that ends at `end`, without the marks around it."""
        words_before = self.text[max(0, end - 40) : end].split()
        return words_before[-1].strip(_STRIP) if words_before else ""

    def _syntok(self) -> frozenset[int]:
        if self._proposals is None:
            self._proposals = _propose(self.text)
        return self._proposals


def _past_openers(text: str, index: int) -> int:
    while index < len(text) and text[index] in _OPENERS:
        index += 1
    return index


def _is_cjk(char: str) -> bool:
    """Whether `char` is from a script written without spaces, Hangul included."""
    return "\u2e80" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" or "\uf900" <= char <= "\uffef"


_ENGINE_TABLE = str.maketrans(dict.fromkeys("()[]{}（）【】\"“”「」『』⟨⟩*_~`#\u200b\x1c\x1d\x1e\x1f", " ") | {";": ","})
# Lower-case words that touch no stop say nothing to syntok: a run of them is read as one word.
_PLAIN_RUN = re.compile(r"(?<= )[a-z]+(?: [a-z]+)* (?=[a-z]+[ ,])")


@cache
def _analyze():  # type: ignore[no-untyped-def]
    # Imported when first needed: syntok's patterns take longer to compile than a command line to answer.
    from syntok.segmenter import analyze

    return analyze


def _propose(masked: str) -> frozenset[int]:
    """The offsets at which syntok starts a sentence in a masked block."""
    text = _PLAIN_RUN.sub(lambda match: "x" * len(match[0]), masked.translate(_ENGINE_TABLE))
    return frozenset(
        sentence[0].offset for paragraph in _analyze()(text) for sentence in paragraph if sentence[0].value
    )
