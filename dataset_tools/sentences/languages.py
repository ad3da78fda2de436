"""Which language a text is in, and what is known of it: abbreviations, function words, ordinals.

The data is languages.json, written by tools/make_language_data.py from pysbd, CLDR and stop-words. It is read
when a text that is not English is first seen.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from dataset_tools.sentences.words import STARTERS

_READ = 3000
"""The language is told by so many first characters of a text."""
_LEAST = 2
"""Fewer function words than this tell no language."""
_WORD = re.compile(r"[^\W\d_]+")
_OTHER_ALPHABET = re.compile("[\u0370-\u03ff\u0400-\u052f\u1f00-\u1fff]")
_BY_SCRIPT = {"cyrillic": ("ru", "uk", "bg", "kk"), "greek": ("el",)}


class Language(NamedTuple):
    """What the rules know of a language. Abbreviations lack their last full stop."""

    code: str
    abbreviations: frozenset[str]
    function_words: frozenset[str]
    ordinals: bool


class Languages(NamedTuple):
    """The language of the words of a text, by their script; `latin` is None for English and unknown ones."""

    latin: Language | None
    cyrillic: Language | None
    greek: Language | None


@cache
def _data() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(__file__).with_name("languages.json").read_text(encoding="utf-8"))
    return found


@cache
def language(code: str) -> Language:
    """The language of an ISO code; one of which nothing is known has empty lists."""
    known = _data()["languages"].get(code, {})
    return Language(
        code,
        frozenset(known.get("abbreviations", "").split()),
        frozenset(known.get("function_words", "").split()),
        known.get("ordinals", False),
    )


@cache
def trailing() -> frozenset[str]:
    """Abbreviations that may end a sentence, "etc" and its like, in all languages."""
    return frozenset(_data()["trailing"].split())


@cache
def titles() -> frozenset[str]:
    """Abbreviations that stand before a name, in all languages."""
    return frozenset(_data()["titles"].split())


@cache
def _languages_of_words() -> dict[str, tuple[str, ...]]:
    words: dict[str, tuple[str, ...]] = {
        word: ("en",) for word in {word.lower() for word in STARTERS} | set(_data()["english"].split())
    }
    for code in _data()["languages"]:
        for word in language(code).function_words:
            words[word] = (*words.get(word, ()), code)
    for code, letters in _data()["letters"].items():
        for letter in letters:
            words[letter] = (*words.get(letter, ()), code, code)
    return words


def languages_of(text: str) -> Languages:
    """The languages of `text`, told by its function words; English where no other has more of them."""
    text = text[:_READ]
    # About every fifteenth English word is "the"; no other language written in Latin letters has it.
    if 160 * text.count(" the ") > len(text) and (text.isascii() or not _OTHER_ALPHABET.search(text)):
        return Languages(None, None, None)
    counts = {"en": 0}
    known = _languages_of_words()
    letters = [] if text.isascii() else [letter for letter in text if not letter.isascii()]
    for word in [*(found for found in _WORD.findall(text) if len(found) > 1 or found.islower()), *letters]:
        for code in known.get(word.lower(), ()):
            counts[code] = counts.get(code, 0) + 1
    cyrillic = greek = None
    if not text.isascii() and _OTHER_ALPHABET.search(text):
        cyrillic = language(max(_BY_SCRIPT["cyrillic"], key=lambda code: counts.get(code, 0)))
        greek = language("el")
    for codes in _BY_SCRIPT.values():
        for code in codes:
            counts.pop(code, None)
    best = max(counts, key=lambda code: counts[code])
    told = counts[best] >= _LEAST and counts[best] > counts["en"]
    return Languages(language(best) if told else None, cyrillic, greek)
