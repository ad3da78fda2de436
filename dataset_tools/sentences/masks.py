"""Masks: what must not be read as the end of a sentence is overwritten, character for character.

A mask keeps the length of the text, so that an offset into the masked text is one into the text. Code, maths,
links and addresses become one capitalised word; full stops inside short quotations and brackets become
letters; emphasis, brackets, quotation marks, emoji and markers become spaces.
"""

from __future__ import annotations

import re

_CODE = re.compile(r"``[^`\n]+``|`[^`\n]+`")
_MATHS = re.compile(
    r"\$\$[^$]+\$\$"
    r"|\$(?![\s$])[^$\n]+(?<!\s)\$(?!\d)"
    r"|\\\((?:[^\\]|\\(?![()]))*\\\)"
    r"|\\\[(?:[^\\]|\\(?![\[\]]))*\\\]"
)
_ENVIRONMENT = re.compile(r"\\begin\{[a-zA-Z]{1,20}\*?\}(?:[^\\]|\\(?!begin|end))*\\end\{[a-zA-Z]{1,20}\*?\}")
_LINK = re.compile(
    r"(?<=\]\()[^()\s]+(?=\))|(?:https?://|www\.)[^\s<>\"')\]\u0080-\U0010ffff]*[^\s<>\"')\].,;:!?\u0080-\U0010ffff]"
)
_ADDRESS = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*")
_TAG = re.compile(r"<(/?)([A-Za-z][\w-]{0,30})\s?/?>")
# A particle may follow a quotation without a space in scripts that need none, and a word precede it.
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_NO_WORD_BEFORE = rf"(?:(?<!\w)|(?<=[{_UNSPACED}]))"
_NO_WORD_AFTER = rf"(?:(?!\w)|(?=[{_UNSPACED}]))"
_QUOTATIONS = re.compile(
    rf"{_NO_WORD_BEFORE}\"(?=[^\s\"])[^\"]{{1,150}}\"{_NO_WORD_AFTER}"
    r"|“[^“”]{1,150}”"
    r"|「[^「」]{1,80}」|『[^『』]{1,80}』"
    r"|„[^„“”\"]{1,150}[“”\"]|(?<!\w)”(?=\w)[^“”]{1,150}”(?!\w)"
    r"|«[^«»]{1,150}»|(?<!\w)»(?=\w)[^«»]{1,150}«|(?<!\w)‚(?=\w)[^‚‘’]{1,150}[‘’](?!\w)"
    r"|(?<!\w)‹(?=\w)[^‹›]{1,150}›|(?<!\w)›(?=\w)[^‹›]{1,150}‹"
    rf"|(?<!\w)‘(?:[^‘’]|’(?=\w)){{1,150}}’{_NO_WORD_AFTER}"
    rf"|(?<![\w'])'(?=[^\s'])(?!\d0s\b|(?:em|tis|twas|til|cause)\b)"
    rf"(?:[^']|(?<=\w)'(?=\w)){{1,150}}'{_NO_WORD_AFTER}"
)
_OPENED_BY = {"„": ("“", "”"), "”": ("“", "”"), "»": ("«", "»"), "‚": ("‘", "’"), "›": ("‹", "›")}
"""Quotation marks that open in some languages and close in others, and what the rules read in their place."""
_INVISIBLE = "\u00ad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
_AFTER_STOP = re.compile(rf"(?<=[.!?…。！？।؟۔\"'”’»)\]\s{_INVISIBLE}])[{_INVISIBLE}]+")
_BRACKETS = re.compile(r"\([^()]{1,200}\)|（[^（）]{1,120}）|\[[^\[\]]{1,200}\]")
_QUOTE_LINES = re.compile(r"(?<=\n)[ \t]*>[ \t>]*")
EMOJI = re.compile(
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u231a-\u23ff]"
    "[\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff\u231a-\u23ff\ufe0f\u200d\u20e3]*"
)

_LONGEST_FULL_WIDTH = 60
_FULL_WIDTH_STOP = re.compile("[。！？｡]")
_EMOTICON = re.compile(r"(?<!\w)[:;=]'?-?[()DPp](?!\w)")
_STOP_MARKS = ".!?…。！？．｡।॥؟۔։።។"
_STOPS = dict.fromkeys(map(ord, _STOP_MARKS), "x")
_LATER_STOP = re.compile(f"[{_STOP_MARKS}]")
_QUOTED_ENDS = _STOP_MARKS + " \u00a0\u202f\u2009"
_BEFORE_SENTENCE = frozenset('.!?…。！？"”」』:：')


def mask(text: str, marker: int = 0) -> str:
    """`text` at equal length, its first `marker` characters and all that holds no boundary overwritten."""
    if marker:
        text = " " * marker + text[marker:]
    if not text.isascii():
        text = _AFTER_STOP.sub(_blank, text)
    if "`" in text:
        text = _CODE.sub(_word, text)
    if "$" in text or "\\" in text:
        text = _MATHS.sub(_word, text)
        if "\\begin" in text:
            text = _ENVIRONMENT.sub(_word, text)
    if "](" in text or "://" in text or "www." in text:
        text = _LINK.sub(_word, text)
    if "@" in text:
        text = _ADDRESS.sub(_word, text)
    if "<" in text:
        text = _TAG.sub(_tag, text)
    if "\n" in text and ">" in text:
        text = _QUOTE_LINES.sub(_blank, text)
    if '"' in text or "'" in text or not text.isascii():
        text = _QUOTATIONS.sub(_quotation, text)
    if ":" in text or ";" in text:
        text = _EMOTICON.sub(_blank, text)
    if "(" in text or "[" in text or "（" in text:
        text = _BRACKETS.sub(_bracket, text)
    return text


def _word(match: re.Match[str]) -> str:
    """One capitalised word, with the full stop that some writers put inside the closing delimiter."""
    inside = match[0].rstrip("`$\\)]")
    if inside[-1:] == "." and len(inside) > 2:
        rest = len(match[0]) - len(inside)
        return "X" + "x" * (len(inside) - 2) + "." + "`" * rest
    return "X" + "x" * (len(match[0]) - 1)


def _tag(match: re.Match[str]) -> str:
    """A tag, as an opening or closing mark that belongs to the words it touches."""
    mark = " " if match[2] == "br" else "⟩" if match[1] else "⟨"
    return mark * len(match[0])


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _quotation(match: re.Match[str]) -> str:
    """A short quotation: only the stops that end it can end a sentence, unless it stands by itself."""
    quotation = match[0]
    if quotation[0] in _OPENED_BY:
        opener, closer = _OPENED_BY[quotation[0]]
        quotation = opener + quotation[1:-1] + closer
    inside = quotation[1:-1].rstrip(_QUOTED_ENDS)
    if not _LATER_STOP.search(inside):
        return quotation
    if len(inside) > _LONGEST_FULL_WIDTH and _FULL_WIDTH_STOP.search(inside):
        return quotation
    text, start, end = match.string, match.start(), match.end()
    before = text[max(0, start - 3) : start].rstrip(" *_\n")
    after = text[end : end + 3]
    stands_alone = not before or before[-1] in ".!?。！？"
    next_char = after.lstrip()[:1]
    ends_alone = not after[:1].strip(" *_\n") and not next_char.islower() and next_char not in tuple("—–-,;")
    if stands_alone and ends_alone and len(inside) < len(quotation) - 2:
        return quotation
    return quotation[0] + inside.translate(_STOPS) + quotation[len(inside) + 1 :]


def _bracket(match: re.Match[str]) -> str:
    """A bracket: no stop in it ends a sentence, unless the bracket is a sentence by itself."""
    bracket = match[0]
    if not _LATER_STOP.search(bracket):
        return bracket
    before = match.string[max(0, match.start() - 3) : match.start()].rstrip()
    if not before or before[-1] in _BEFORE_SENTENCE:
        inside = bracket[1:-1].rstrip(_STOP_MARKS)
        return bracket[0] + inside.translate(_STOPS) + bracket[len(inside) + 1 :]
    return bracket.translate(_STOPS)
