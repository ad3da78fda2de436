"""Where a block is cut: syntok proposes, and a short table of rules decides the cases it is known to miss.

A candidate is a run of stops with the closing marks and white space after it. A rule answers True (a sentence
ends here), False (none does) or None, which leaves the answer to syntok.
"""

from __future__ import annotations

import re

from dataset_tools.sentences import words
from dataset_tools.sentences.inline_lists import InlineLists
from dataset_tools.sentences.international import (
    QUOTES,
    Candidate,
    ends_with_capitals,
    ends_without_capitals,
    language_of,
    script_before,
)
from dataset_tools.sentences.languages import Language, Languages, language
from dataset_tools.sentences.masks import EMOJI, mask
from dataset_tools.sentences.proposals import propose

# Besides the stops of European and East Asian scripts: Unicode's Sentence_Terminal of those in use today.
_OTHER_STOPS = "।॥۔؟؞։܀܁܂።፧፨។៕။᠃᠉᙮꓿꘎꘏꛳꛷꣎꣏꧈꧉꩝꩞꩟꫰꫱꯫᱾᱿᭚᭛᭞᭟߹"
_CANDIDATE = re.compile(
    rf"([.!?…‼⁇⁈⁉。！？｡{_OTHER_STOPS}]+)"
    r"((?:[\"'”’›」』)）\]】》⟩*_~`]|[ \u00a0\u202f\u2009]?»)*(?:\[\d{1,3}\](?!\())?)(\s*)"
)
_OWN_STOP = re.compile(f"[{_OTHER_STOPS.replace('؟', '')}]")
_FULL_STOPS = frozenset("。！？｡" + _OTHER_STOPS)
_QUOTES = frozenset("\"'”’」』")
_OPENERS = frozenset("\"'“‘„‚«»‹›「『(（[【《⟨*_~`¿¡#")
_NEXT_WORD = re.compile(r"[\"'“‘„‚«»‹›「『(（\[【《⟨*_~`¿¡#]*[\u00a0\u202f\u2009]?([^\W\d_]+)?")
_NEXT_CASELESS = re.compile(r"[\"'“‘„‚«»‹›(\[*_~`]*([^\s\d.,!?…:;،؟؛।\"'“”‘’«»()\[\]]+)?")
_GREEK_QUESTION = re.compile('(?<=[\u0370-\u03ff\u1f00-\u1fff"»”)])[;\u037e](?=\\s|\\Z)')
# What ends a sentence before "……" in Chinese and Japanese; elsewhere it marks a pause.
_COMPLETE = re.compile(
    r"\w{4}(?<=[了吧呢吗啊呀])\Z|\w{3}(?:です|ます|ました|ません|でした|だった|である|でしょう)\Z"
)
_LATIN_END = re.compile(r"[^\u2e80-\u9fff\uac00-\ud7af\uf900-\uffef]*\Z")
_NEXT_MARKER = re.compile(r"[*_]*(?:\d{1,2}\.|\(?(?:\d{1,2}|[A-Za-z])\)|[①-⓿❶-➓]|[-•*–—])\s+\S")
_BARE_MARKER = re.compile(
    r"[*_\s]*\(?(?:[A-Za-z]?\d{1,3}|[A-Za-z]|[ivxIVX]{1,4}|[图圖表例题題]\s?\d{1,3})\)?\Z"
)
_NUMBERED = re.compile(r"[*_\s]*([A-Za-z]+)\s+(?:\d{1,3}|[A-Z]|[IVX]{1,4})\Z")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,3}\.)+[^\W\d_]{1,2}\Z")
_CONTRACTED = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*\Z")
_SAYING = re.compile(r"[^，。！？,.!?\s]{0,10}(?:说|道|问|喊|叫|答|笑)[道着]?[。，：:！]")
_SHORT = 30
"""Longer than any label or marker, in characters."""
_ROMAN = re.compile(r"[IVX]{2,5}\Z")
_MEASURE = re.compile(r"\W*[\d./½⅓¼¾–-]+\s?[a-z]{1,5}\Z")
_STRONG = frozenset("The It He She They There This These".split())
_ABBREVIATIONS = words.TITLES | words.REFERENCES | words.ALWAYS_OPEN | words.SUFFIXES | words.DATES
_COMPOUND = frozenset("ft lb lbs hr hrs".split())
_CONNECTIVES = frozenset("and or nor but of to for from by with without in on at as than per like".split())
_STRIP = "\"'“‘”’„‚«»‹›「」『』()（）[]【】《》⟨⟩*_~`,;:"


def cuts(block: str, marker: int, languages: Languages) -> list[int]:
    """Offsets into `block` at which a sentence starts, the first one left out.

    `languages` are those of the whole text.
    """
    masked = mask(block, marker)
    if not _CANDIDATE.search(masked) and block.isascii():
        return []
    if not block.isascii():
        masked = _emoji(masked, languages)
        if languages.greek:
            masked = _GREEK_QUESTION.sub("?", masked)
    return _Cutter(masked, languages, block[:marker]).cuts()


def _emoji(masked: str, languages: Languages) -> str:
    """Trailing emoji become white space, or a stop where they alone part two sentences; leading ones stay."""
    first = EMOJI.search(masked)
    if first is None or not masked[: first.start()].strip():
        return masked

    def replace(match: re.Match[str]) -> str:
        size = match.end() - match.start()
        before = masked[max(0, match.start() - 2) : match.start()].rstrip()
        after = _NEXT_WORD.match(masked, match.end() + 1)
        parts = (
            before[-1:].islower() and masked[match.end() : match.end() + 1] == " "
            and after is not None and after[1] is not None and _begins(after[1], languages)
        )  # fmt: skip
        return ("." if parts else " ") + " " * (size - 1)

    return EMOJI.sub(replace, masked)


def _begins(word: str, languages: Languages) -> bool:
    """Whether a capitalised word more often begins a sentence than it is a name."""
    if languages.latin is None and word.isascii():
        return word in words.STARTERS
    known = (language for language in languages if language)
    return word[0].isupper() and any(word.lower() in language.function_words for language in known)


class _Cutter:
    """One masked block on its way to its cuts."""

    def __init__(self, masked: str, languages: Languages, marker: str = ""):
        self.text = masked
        self.languages = languages
        self.sentence = 0
        self._proposals: frozenset[int] | None = None
        self._has_stops: bool | None = None
        self._lists = InlineLists(masked, marker)

    def cuts(self) -> list[int]:
        found = []
        text, size = self.text, len(self.text)
        for match in _CANDIDATE.finditer(text):
            stop, after = match.start(), match.end()
            if after == size:
                break
            if not text[self.sentence : min(stop, self.sentence + _SHORT)].strip():
                continue
            verdict = self._verdict(match)
            if verdict is None:
                verdict = _past_openers(text, after) in self._syntok()
            if verdict:
                self.sentence = self._before_opener(match)
                found.append(self.sentence)
        return found

    def _before_opener(self, match: re.Match[str]) -> int:
        """Where the next sentence starts: before a mark that touches it and opens, as in "！*笑* 好"."""
        closers, space = match[2], match[3]
        mark = closers[-1:]
        if space or not mark or mark not in '"*_`~':
            return match.end()
        if self.text.count(mark, self.sentence, match.start()) % 2:
            return match.end()
        return match.start(2) + len(closers.rstrip(mark))

    def _verdict(self, match: re.Match[str]) -> bool | None:
        stops, closers, space = match.groups()
        text, start, after = self.text, match.start(), match.end()
        char = text[after]
        # A reference to a source, "[1]", belongs to the sentence and says nothing about its end.
        closers, _, cited = closers.partition("[")
        before = text[start - 1] if start else " "
        after_cjk = stops[-1] in ".!?" and _is_cjk(before) and not char.isdigit()
        spaced_script = space and not _is_east_asian(before)
        quoted = not QUOTES.isdisjoint(closers)
        if (after_cjk or not _FULL_STOPS.isdisjoint(stops)) and not (spaced_script and (after_cjk or quoted)):
            return self._full_width(match, char)
        if not space:
            if "…" in stops and _is_east_asian(before) and _is_east_asian(char):
                return bool(_COMPLETE.search(text, max(self.sentence, start - 8), start))
            return self._no_space(stops, closers, before, char, after)
        word = self._word(start)
        if cited and stops == "." and char.isupper():
            return True
        if not self.text.isascii() or self.languages.latin:
            script = script_before(text, start, after)
            language = language_of(script, self.languages)
            if language or script == "caseless":
                return self._international(match, word, language)
        if _NEXT_MARKER.match(text, after) and word[-1:].islower() and word.lower() not in _ABBREVIATIONS:
            return True
        following = _NEXT_WORD.match(text, after)
        next_word = following[1] or "" if following else ""
        if stops == ".." and word.isalpha():
            return not next_word[:1].islower()
        if "…" in stops or ".." in stops:
            return self._ellipsis(start, before, closers, next_word)
        if "." not in stops:
            return self._exclamation(word, closers, next_word, char)
        if len(stops) > 1:
            return not next_word[:1].islower()
        return self._full_stop(start, word, closers, next_word, char)

    def _international(self, match: re.Match[str], word: str, known: Language | None) -> bool:
        """Languages other than English and scripts other than those of East Asia."""
        stops, closers, _ = match.groups()
        start, after = match.start(), match.end()
        sentence = self.text[self.sentence : start] if start - self.sentence < _SHORT else ""
        if sentence and not closers.strip("*_") and "." in stops and _BARE_MARKER.match(sentence):
            return False
        following = _NEXT_WORD.match(self.text, after) if known else _NEXT_CASELESS.match(self.text, after)
        next_word = following[1] or "" if following else ""
        is_marker = (
            word.isdecimal() and len(word) < 3 or word in tuple("abcdeABCDEабвгд")
        ) and self._lists.is_marker(word, start)
        candidate = Candidate(
            self.text, self.sentence, start, after, stops, closers, word, next_word, is_marker
        )
        if known:
            return ends_with_capitals(candidate, known)
        code = "ar" if "\u0590" <= word[-1:] < "\u0900" else "hi"
        if self._has_stops is None:
            self._has_stops = bool(_OWN_STOP.search(self.text))
        return ends_without_capitals(candidate, language(code).abbreviations, self._has_stops)

    def _full_width(self, match: re.Match[str], char: str) -> bool:
        """Stops of scripts without spaces, and any stop right after such a character."""
        stops, closers, space = match.groups()
        if char in "，、；：,;:）)」』”’":
            return False
        if not space and stops[-1] == "." and (len(stops) > 1 or char.isascii() and char.isalnum()):
            return False
        if not _QUOTES.isdisjoint(closers) and not space and self._before_opener(match) == match.end():
            if stops[-1] not in "。｡।" or char in words.AFTER_FULL_WIDTH_QUOTE:
                return False
            return not _SAYING.match(self.text, match.end())
        return True

    def _no_space(self, stops: str, closers: str, before: str, char: str, after: int) -> bool:
        """Two sentences written without a space between them: "blue.The grass"."""
        if len(stops) > 3 or stops in ("..", "…", "..."):
            return False
        if "⟩" in closers:
            return char.isupper() or not char.isascii()
        if closers.strip("*_"):
            return False
        word = self._word(after - len(stops) - len(closers))
        if _is_cjk(char):
            return before.islower() and word.lower() not in _ABBREVIATIONS
        if not char.isupper() or not before.islower():
            return False
        following = self.text[after + 1 : after + 2]
        return word.isalpha() and len(word) > 1 and (following.islower() or following in " '")

    def _ellipsis(self, start: int, before: str, closers: str, next_word: str) -> bool | None:
        if next_word[:1].islower():
            return False
        if before.isspace():
            return next_word in words.STARTERS
        if not _QUOTES.isdisjoint(closers):
            return None
        return start - self.sentence >= _SHORT or len(self.text[self.sentence : start].split()) >= 3

    def _exclamation(self, word: str, closers: str, next_word: str, char: str) -> bool | None:
        if not next_word:
            return None if char.isascii() and not char.isdigit() else char not in "，、；："
        if next_word[0].islower():
            return not closers.strip("*_") and word.islower()
        return None if not _QUOTES.isdisjoint(closers) else True

    def _full_stop(self, start: int, word: str, closers: str, next_word: str, char: str) -> bool | None:
        lower = word.lower()
        first = next_word[:1]
        # What stands alone before the stop, where it is short enough to be a label or a marker.
        sentence = self.text[self.sentence : start] if start - self.sentence < _SHORT else ""
        if sentence and not closers.strip("*_"):
            if _BARE_MARKER.match(sentence):
                return False
            numbered = _NUMBERED.match(sentence)
            if numbered and numbered[1].lower() in words.NUMBERED and first.isupper():
                return False
        starter = next_word in words.STARTERS
        if lower in words.ALWAYS_OPEN:
            return False
        if lower in words.REFERENCES and not closers:
            return self._after_reference(word, lower, next_word, char)
        if lower in words.TITLES and word != lower and not closers:
            return next_word in _STRONG
        if lower in words.SUFFIXES and not closers:
            if first.islower() or char in "(,":
                return False
            return True if starter or lower == "etc" and first.isupper() else None
        if lower in words.DATES and word != lower:
            return False if char.isdigit() else None
        if _DOTTED.match(word):
            if lower in ("a.m", "p.m"):
                return first.isupper() and next_word not in words.ZONES or (None if not first else False)
            return starter or (None if not first else False)
        if lower in words.UNITS and (_MEASURE.match(sentence) or lower in _COMPOUND and char.isdigit()):
            return False
        if len(word) == 1 and self.text[start - 1] == ")":
            # "(x = 1)." may end a sentence, "E)." is a label.
            return self.text.rfind("(", max(self.sentence, start - 200), start) >= 0 and first.isupper()
        if len(word) == 1 or word.isdigit():
            return self._single(start, word, next_word, char)
        if starter and _ROMAN.match(word):
            return True
        if first.islower():
            return self._before_lower_case(word, lower, closers, next_word)
        if char.isdigit():
            return True if word.islower() or not word.isalpha() or len(word) > 4 else None
        if first and not first.isupper():
            return True
        if first and (word[-1:].isdigit() or "." in word or not _QUOTES.isdisjoint(closers)):
            return True
        return True if lower in words.SYNTOK_MISTAKES and word == lower else None

    def _after_reference(self, word: str, lower: str, next_word: str, char: str) -> bool | None:
        """After "fig." and its like: open before a number or a letter; else a sentence may end there."""
        if char.isdigit() or char == "(":
            return False
        if not next_word:
            return None
        if len(next_word) == 1 and (word != lower or next_word not in "AI") or not next_word.strip("IVX"):
            return False
        if next_word[0].islower():
            is_word = word == lower and lower not in words.REFERENCE_ONLY
            return is_word and self._starts_in_lower_case(next_word)
        return True if word == lower or next_word in words.STARTERS else None

    def _starts_in_lower_case(self, next_word: str) -> bool:
        return next_word.capitalize() in words.STARTERS and next_word not in _CONNECTIVES

    def _single(self, start: int, word: str, next_word: str, char: str) -> bool | None:
        """A single letter or digit: an initial, the marker of an inline list, an option, or a plain value."""
        if len(word) < 3 and self._lists.is_marker(word, start):
            return False
        if not word.isalpha():
            if next_word in words.MONTHS:
                return False
            return True if next_word or char.isdigit() else None
        if not word.isupper():
            return next_word[:1].isupper() or None
        if next_word[:1].islower():
            return False
        above = self._word(max(0, start - 2))
        if next_word[:1].isupper() and next_word.lower() == above.lower():
            return True  # "Angle A equals angle B. Angle B ..."
        labelled = above.lower() in words.LABELLED
        if next_word in words.STARTERS and next_word != "A":
            return True if above.islower() or labelled else None
        if next_word.startswith("Xx") and above.islower():
            return True
        return None if labelled else False

    def _before_lower_case(self, word: str, lower: str, closers: str, next_word: str) -> bool:
        """A sentence that starts in lower case after a word that is no abbreviation."""
        if closers.strip("*_⟩") or lower in _ABBREVIATIONS or lower in words.UNITS or len(word) < 2:
            return False
        if word.islower() and _CONTRACTED.match(word):
            return next_word not in ("of", "or", "per")
        return (word[-1:].isdigit() or len(word) > 3) and self._starts_in_lower_case(next_word)

    def _word(self, end: int) -> str:
        """The word that ends at `end`, without the marks around it."""
        words_before = self.text[max(0, end - 40) : end].split()
        if not words_before:
            return ""
        word = words_before[-1].strip(_STRIP)
        if not word.isascii() and word[-1:].isascii():
            # A Latin word may touch one of a script without spaces: "比Dr".
            word = _LATIN_END.search(word)[0]  # type: ignore[index]
        return word

    def _syntok(self) -> frozenset[int]:
        if self._proposals is None:
            self._proposals = propose(self.text)
        return self._proposals


def _past_openers(text: str, index: int) -> int:
    while index < len(text) and text[index] in _OPENERS:
        index += 1
    return index


def _is_east_asian(char: str) -> bool:
    """Whether `char` is from a script written without spaces."""
    return _is_cjk(char) and not "\uac00" <= char <= "\ud7af"


def _is_cjk(char: str) -> bool:
    """Whether `char` is from a script written without spaces, Hangul included."""
    return "\u2e80" <= char <= "\u9fff" or "\uac00" <= char <= "\ud7af" or "\uf900" <= char <= "\uffef"
