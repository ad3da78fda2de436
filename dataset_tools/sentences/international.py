"""Where a sentence ends in languages other than English.

The rules are the same for all; what differs between languages is their data (see languages.py). Scripts with
capitals are cut before a capital only; after an abbreviation, a number or an initial, only before one that
is known to begin sentences. Scripts without capitals are cut at every stop that is not an abbreviation's.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from dataset_tools.sentences import words
from dataset_tools.sentences.languages import Language, Languages, titles, trailing

QUOTES = frozenset("\"'”’“‘»«›‹」』")
_CONTINUING = frozenset(",;:)]}،؛，、；：）")
_DASHES = frozenset("—–-−")
_DOTTED = re.compile(r"(?:[^\W\d_]{1,4}\.-?)+[^\W\d_]{1,4}\Z")
_DATE = re.compile(r"\d{4}\.\s?\d{1,2}\.\s?\d{1,2}\Z")
_AND = frozenset("और या یا".split())
_YEAR = re.compile(r"\d{3,4} ?\w+\Z")
_CALENDARS = frozenset("م ه هـ".split())
_ROMAN = re.compile(r"[IVX]{1,5}\Z")
_VOWELS = frozenset("aeiouyæøœıаеёиоуыэюяіїєαεηιουω")
_KOREAN_ENDINGS = frozenset("다요까죠네음임함군나자오니")
_STOPLESS = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
_FOLLOWERS = frozenset(
    "라고 이라고 라는 이라는 하고 라며 이라며 라는데 란 이란 "
    "लिखा लिखी लिखे कहा कहते कहती बोला बोले बोली पूछा पढ़ा "
    "ऐसा ثم قال قالت يقول تقول قائلا".split()
)
"""Words that go on with the sentence after a quotation, in scripts without capitals."""
_ERAS = frozenset("г р в".split())
"""Russian letters after a number that often stand in the middle of a sentence: "в 2019 г. Москва"."""
_UNITS = frozenset("км см мм кг мин сек руб kg km cm mm".split())
_ELIDED = re.compile("[\"“«(*_]*[^\\W\\d_]{1,5}['’][a-zà-öø-ÿœ]")
"""A word that has lost its last letter, before a plain word: "L'angle", "D'après"; "D'Alembert" is a name."""
_OPENING = '"“«„(*_'
_NEAR = 200
_SCRIPTS = (
    ("latin", "\u0041", "\u024f"),
    ("latin", "\u1e00", "\u1eff"),
    ("greek", "\u0370", "\u03ff"),
    ("greek", "\u1f00", "\u1fff"),
    ("cyrillic", "\u0400", "\u052f"),
)


class Candidate(NamedTuple):
    """A stop in a masked block: what is before it, what is after it."""

    text: str
    sentence: int
    """Where the sentence starts."""
    start: int
    """Where the stop is."""
    after: int
    """Where the text goes on, after closing marks and white space."""
    stops: str
    closers: str
    word: str
    """The word that the stop touches."""
    next_word: str
    """The word after it, without opening marks; empty where a digit or a mark follows."""
    is_marker: bool
    """Whether the word is the marker of a list in the line, as "2" in "1. A lamp 2. A desk"."""


def script_of(char: str) -> str:
    """latin, greek, cyrillic, or caseless for letters that have no capitals; empty for all else."""
    if not char.isalpha() and not unicodedata.category(char).startswith("M"):
        return ""
    for name, first, last in _SCRIPTS:
        if first <= char <= last:
            return name
    return "" if char.isupper() or char.islower() else "caseless"


def script_before(text: str, start: int, after: int) -> str:
    """The script of the letter nearest to a stop, the one before it first."""
    for index in range(start - 1, max(-1, start - 60), -1):
        found = script_of(text[index])
        if found:
            return found
    return script_of(text[after]) if after < len(text) else ""


def language_of(script: str, languages: Languages) -> Language | None:
    """The language of a text's words in one script."""
    return {"latin": languages.latin, "cyrillic": languages.cyrillic, "greek": languages.greek}.get(script)


def ends_with_capitals(at: Candidate, language: Language) -> bool:
    """Whether a sentence ends at a stop, in a script with capitals."""
    first = at.next_word[:1] or at.text[at.after]
    if first in _DASHES and QUOTES.isdisjoint(at.closers):
        # Another one speaks, "- Yes. - Who?", unless the teller goes on.
        return at.text[at.after + 1 : at.after + 4].strip(' «"“¿¡')[:1].isupper()
    if first in _CONTINUING or first in _DASHES or first.islower():
        return False
    if not QUOTES.isdisjoint(at.closers):
        return True
    if "…" in at.stops or "..." in at.stops:
        return at.start - at.sentence >= 30 or len(at.text[at.sentence : at.start].split()) >= 2
    if "." not in at.stops or len(at.stops) > 1:
        return True
    word = re.split("['’]", at.word)[-1]
    lower = word.lower()
    begins = at.next_word.lower() in language.function_words
    if at.is_marker:
        return False
    if word[-1:].isdigit():
        return _after_number(at, word, begins, first, language.ordinals)
    after_number = _follows_number(at, word)
    if word in titles() or lower in titles() and not word.isupper():
        return len(word) == 1 and after_number and not first.isdigit()
    if len(word) == 1:
        return _after_letter(at, word, begins, first, after_number)
    if lower in trailing() or lower in _UNITS or after_number and lower in words.UNITS:
        return not first.isdigit()
    listed = lower in language.abbreviations and not word.isupper() or word in language.abbreviations
    if listed or _DOTTED.match(word) or _is_shortened(word):
        return begins and not first.isdigit()
    if language.ordinals and _ROMAN.match(word):
        return begins
    return len(word) > 3 or not first.isdigit()


def _word_above(at: Candidate, word: str) -> str:
    """What stands before the word that the stop touches."""
    end = at.start - len(word)
    above = at.text[max(at.sentence, end - 40) : end].split()
    return above[-1] if above else ""


def _follows_number(at: Candidate, word: str) -> bool:
    return at.text[max(at.sentence, at.start - len(word) - 8) : at.start - len(word)].rstrip()[-1:].isdigit()


def _after_number(at: Candidate, word: str, begins: bool, first: str, ordinals: bool) -> bool:
    if first.isdigit():
        return not word.isdecimal() or len(word) > 2 and not (ordinals and len(word) < 4)
    if ordinals and word.isdecimal() and len(word) < 4:
        above = _word_above(at, word)
        # "Nr. 5" and "S. 12" are values, "19. Jahrhundert" is an ordinal number.
        return begins or above.endswith(".")
    return True


def _after_letter(at: Candidate, letter: str, begins: bool, first: str, after_number: bool) -> bool:
    """An initial, a part of "z. B.", a unit, or an abbreviation of one letter."""
    if first.isdigit():
        return False
    above = _word_above(at, letter)
    pair = above.strip("([«\"'") if above.endswith(".") else ""
    if pair:
        return (pair + letter).lower() in trailing() or letter.islower() and begins
    if len(at.next_word) == 1 and at.text[at.after + 1 : at.after + 2] == ".":
        return False
    if letter.isupper():
        return _after_capital(at, above, begins)
    if after_number:
        return begins or letter not in _ERAS
    return begins


def _after_capital(at: Candidate, above: str, begins: bool) -> bool:
    """Whether a capital letter was a label, "angle B", and no initial, which belongs to a name."""
    ahead = at.text[at.after : at.after + len(above) + 1].lstrip(_OPENING)
    if above and ahead[:1].isupper() and re.match(rf"{re.escape(above)}\b", ahead, re.IGNORECASE):
        return True  # "l'angle A est l'angle B. L'angle B ..."
    if not begins and not _ELIDED.match(at.text, at.after):
        return False
    if above.islower():
        return True
    # "Winkel A ist ... Winkel B. Der ...": elsewhere the same word has a letter that no stop follows.
    near = at.text[max(0, at.start - _NEAR) : at.after + _NEAR]
    return bool(above) and re.search(rf"\b{re.escape(above)} [A-Z]\b(?!\.)", near) is not None


def _is_shortened(word: str) -> bool:
    """Whether a word has no vowel: "kgl", "стр". Acronyms and units are words."""
    if not word.isalpha() or len(word) > 5 or word.isupper() or word.lower() in words.UNITS:
        return False
    return _VOWELS.isdisjoint(unicodedata.normalize("NFD", word.lower()))


def ends_without_capitals(at: Candidate, abbreviations: frozenset[str], has_stops: bool) -> bool:
    """Whether a sentence ends at a stop, in a script without capitals.

    `has_stops` says that the text ends its sentences with a stop of its own script, so that a full stop
    mostly ends an abbreviation.
    """
    char = at.text[at.after]
    if char in _CONTINUING or char in _DASHES or at.is_marker:
        return False
    last = at.word[-1:]
    hangul = "\uac00" <= last <= "\ud7af"
    if not QUOTES.isdisjoint(at.closers):
        if at.next_word in _FOLLOWERS:
            return False
        introduced = ":" in at.text[max(at.sentence, at.start - 200) : at.start]
        return introduced or not hangul and at.stops[-1] in ".۔" and last >= "\u0590" and last < "\u0900"
    if "…" in at.stops or "..." in at.stops:
        before = at.text[max(at.sentence, at.start - 60) : at.start]
        if at.next_word in _AND or len(at.next_word) > 3 and at.next_word.startswith("و"):
            return False
        if hangul:
            return last in _KOREAN_ENDINGS and len(before.split()) >= 2
        return len(before) >= 15 or len(before.split()) >= 3
    if "." not in at.stops or len(at.stops) > 1:
        return True
    if last.isdigit():
        if char.isdigit():
            return len(at.word) > 4
        return not _DATE.search(at.text, max(at.sentence, at.start - 14), at.start)
    letters = [letter for letter in at.word.removeprefix("و") if letter.isalpha()]
    after_number = _follows_number(at, at.word)
    if at.word in trailing():
        return True
    if at.word in _CALENDARS and _YEAR.search(at.text, max(at.sentence, at.start - 8), at.start):
        return False
    if not hangul and len(letters) <= 1 or at.word in abbreviations:
        return after_number and not has_stops and not char.isdigit() and char != "("
    if _DOTTED.match(at.word) or last and unicodedata.name(last, "").startswith(_STOPLESS):
        return False
    if has_stops or char.isdigit():
        return len(letters) > 3 or hangul
    return True
