"""Where syntok starts a sentence: the answer wherever no rule has one."""

from __future__ import annotations

import re
from functools import cache

_UNREAD = '¿¡()[]{}（）【】"“”「」『』⟨⟩*_~`#\u200b\x1c\x1d\x1e\x1f'
# syntok looks for the end of every bracket it meets and takes a semicolon for a stop.
_ENGINE_TABLE = str.maketrans(dict.fromkeys(_UNREAD, " ") | {";": ","})
# Lower-case words that touch no stop say nothing to syntok: a run of them is read as one word.
_PLAIN_RUN = re.compile(r"(?<= )[a-z]+(?: [a-z]+)* (?=[a-z]+[ ,])")


@cache
def _analyze():  # type: ignore[no-untyped-def]
    # Imported when first needed: syntok's patterns take longer to compile than a command line to answer.
    from syntok.segmenter import analyze

    return analyze


def propose(masked: str) -> frozenset[int]:
    """The offsets at which syntok starts a sentence in a masked block."""
    text = _PLAIN_RUN.sub(lambda match: "x" * len(match[0]), masked.translate(_ENGINE_TABLE))
    return frozenset(
        sentence[0].offset for paragraph in _analyze()(text) for sentence in paragraph if sentence[0].value
    )
