"""From sentence spans in a text to one sentence id per token the host really trained on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import accumulate, takewhile
from typing import Any

from aspo_plugin.alignment.token_bytes import token_bytes
from aspo_plugin.method.sentence_sums import SHARED

# A cut response whose start follows other text (a template's prefix that is not only added tokens and white
# space) must match over this many bytes before it is believed.
_SURE_BYTES = 12
# A template may merge its own text with the first and last tokens of the response.
_MERGED_TOKENS = 2


class AlignmentError(ValueError):
    """The text cannot be found in the tokens, so its sentences cannot be placed: the row must be refused."""


def sentence_ids(
    tokenizer: Any,
    token_ids: Sequence[int],
    text: str,
    spans: Sequence[tuple[int, int]],
    other: Sequence[int] = (),
    untrained: int = 0,
) -> list[int]:
    """The sentence of each response token.

    Template tokens before the text (an empty thinking block, say) that the other response of the pair begins
    with as well are `SHARED` and belong to no sentence. The sentences partition all other tokens: further
    template tokens before the text belong to the first sentence, those after it (end of turn, EOS) and
    trailing white space to the last, white space between two sentences to the later one, a token that
    straddles two sentences to the one holding its first non-space character. A character spread over several
    tokens counts for each of them.

    With `untrained`, the text begins with a context that is given to the model and not learnt, the same in
    both responses. Its tokens, and what the template writes before it, are -1 as the prompt is: they are in
    no sentence, no sum and no mean. They are those that both responses begin with and that hold no character
    behind the context; a token that straddles its end is trained.

    Args:
        tokenizer: the tokenizer that made `token_ids`.
        token_ids: the tokens of one response, in order; may stop anywhere in the text (length limit).
        text: the response as the model is given it.
        spans: (start, end) character offsets of the sentences in `text`, ordered, not empty.
        other: the tokens of the pair's other response; without them nothing is `SHARED` or untrained.
        untrained: how many characters at the beginning of `text` are not trained.

    Returns:
        One index into `spans`, `SHARED` or -1 per token, never decreasing behind those. Sentences cut off by
        a length limit do not appear.

    Raises:
        AlignmentError: no spans, spans out of order or of bounds or in the untrained part, or `text` cannot
            be found in the tokens (a template rewrote it, say).
    """
    if not spans:
        raise AlignmentError("the response has no sentences")
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    if edges != sorted(edges):
        raise AlignmentError(
            f"its sentences are not ordered spans of its {len(text)} characters: {spans[:3]}"
        )
    if spans[0][0] < untrained:
        raise AlignmentError(f"its first sentence begins at {spans[0][0]}, in the untrained {untrained}")
    places = _characters(tokenizer, token_ids, text)
    if places is None:
        places = _characters_by_offsets(tokenizer, token_ids, text, spans)
    if places is None:
        places = _characters(tokenizer, token_ids, text, behind_other_text=True)
    if places is None:
        raise AlignmentError(
            f"the response {_shorten(text)!r} cannot be found in the tokens that are trained, "
            f"{_shorten(tokenizer.decode(list(token_ids)))!r}: the template changes it"
        )
    begins = [0, *(end for _, end in spans[:-1])]  # white space before a sentence belongs to it
    ids = [bisect_right(begins, max(first, 0)) - 1 for first, _ in places]
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(token_ids, other, strict=False)))
    last = untrained - 1  # the last character that is not trained; -1: what stands before the text
    outside = sum(1 for _ in takewhile(lambda place: place[1] <= last, places[:alike]))
    return [-1 if untrained else SHARED] * outside + list(accumulate(ids[outside:], max))


def untrained_tokens(sentence_ids: Sequence[int]) -> int:
    """How many tokens a response begins with that are not trained, of what `sentence_ids` gave for it."""
    return next((place for place, sentence in enumerate(sentence_ids) if sentence != -1), len(sentence_ids))


# Of each token: the character that decides it, and its last one.
_Places = list[tuple[int, int]]


def _characters(
    tokenizer: Any, token_ids: Sequence[int], text: str, behind_other_text: bool = False
) -> _Places | None:
    """Characters of `text` in each token: its first non-space one, else its first; its last. By exact bytes.

    Tokens before the text get -1, tokens after it `len(text)`. None if the bytes are not there. A text
    that is cut off must follow added tokens and white space only, unless `behind_other_text`: a repeated
    sentence at the end would look like one.
    """
    lookup = token_bytes(tokenizer)
    pieces = [lookup(token) for token in token_ids]
    stream = b"".join(pieces)
    for candidate in dict.fromkeys((text, text.strip())):
        encoded = candidate.encode("utf-8", "replace")
        place = stream.rfind(encoded) if encoded else -1
        if place < 0:
            place = _find_cut(stream, encoded, lookup.leading_template(token_ids), behind_other_text)
        if place >= 0:
            offset = text.find(candidate)
            decisive = _decisive_characters(candidate)
            byte_to_char = [n for n, char in enumerate(candidate) for _ in char.encode("utf-8", "replace")]
            result: _Places = []
            position = -place
            for piece in pieces:
                begin, end = max(position, 0), min(position + len(piece), len(encoded))
                position += len(piece)
                if end <= 0:
                    result.append((-1, -1))
                elif begin >= len(encoded):
                    result.append((len(text), len(text)))
                else:
                    first, last = byte_to_char[begin], byte_to_char[end - 1]
                    decides = decisive[first] if decisive[first] <= last else first
                    result.append((offset + decides, offset + last))
            return result
    return None


def _decisive_characters(text: str) -> list[int]:
    """For each position the next one, itself included, that is no white space; `len(text)` after the last."""
    following, result = len(text), [0] * len(text)
    for position in range(len(text) - 1, -1, -1):
        if not text[position].isspace():
            following = position
        result[position] = following
    return result


def _find_cut(stream: bytes, encoded: bytes, template: int, behind_other_text: bool) -> int:
    """Where a text that a length limit cut off begins in the stream, or -1; `template` bytes lead it."""
    if template == len(stream):  # cut before the first character of the text
        return template
    place = stream.find(encoded[:1]) if encoded else -1
    while place >= 0:
        if encoded.startswith(stream[place:]):
            long_enough = behind_other_text and len(stream) - place >= _SURE_BYTES
            return place if place <= template or long_enough else -1
        place = stream.find(encoded[:1], place + 1)
    return -1


def _characters_by_offsets(
    tokenizer: Any, token_ids: Sequence[int], text: str, spans: Sequence[tuple[int, int]]
) -> _Places | None:
    """The same as `_characters` for tokenizers that normalise the text (NFKC, collapsed white space,
    unknown characters): tokenize the text alone and follow the tokenizer's own offsets."""
    if not getattr(tokenizer, "is_fast", False):
        return None
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    own: list[int] = encoding["input_ids"]
    offsets: list[tuple[int, int]] = encoding["offset_mapping"]
    trained = list(token_ids)
    match = SequenceMatcher(None, trained, own, autojunk=False).find_longest_match()
    cut = match.a + match.size == len(trained)
    if match.size == 0 or match.b > _MERGED_TOKENS:
        return None
    if not cut and len(own) - match.b - match.size > _MERGED_TOKENS:
        return None
    decisive = [*_decisive_characters(text), len(text)]
    characters = [
        (decisive[begin] if decisive[begin] < end else begin, max(end - 1, begin)) for begin, end in offsets
    ]
    inside = characters[match.b : match.b + match.size]
    # What the template merged at either end must lie within the first and the last sentence.
    if match.b and inside[0][0] >= spans[0][1]:
        return None
    if not cut and match.b + match.size < len(own) and characters[match.b + match.size][0] < spans[-1][0]:
        return None
    after = len(trained) - match.a - match.size
    merged = min(match.a, match.b)  # hold both: the first text and what the template wrote before it
    first, end = (0, characters[match.b - 1][1] if match.b else 0), (len(text), len(text))
    return [(-1, -1)] * (match.a - merged) + [first] * merged + inside + [end] * after


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
