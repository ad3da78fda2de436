"""Sentences partition the trained tokens, and each sentence's tokens are its own text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aspo_plugin.alignment import token_bytes
from aspo_plugin.alignment.sentence_ids import AlignmentError, sentence_ids, untrained_tokens
from aspo_plugin.method.sentence_sums import SHARED
from tests.support.tokenizers import TOKENIZERS, tokenizer

WORDS = [
    "The",
    "cat",
    "isn't",
    "红色",
    "猫",
    "いる",
    "große",
    "😀",
    "👍🏽",
    "3.14",
    "naïve",
    "x",
    "한국",
    "é",
    "ﬁ",
    "Ａ",
]
GAPS = [" ", "", "\n", "\n\n", "  ", "\u3000"]
ENDS = [".", "。", "!", "?", "...", ""]


@pytest.fixture(autouse=True)
def nothing_remembered():
    """What one test looked up of a tokenizer tells nothing to the next."""
    token_bytes._KNOWN.clear()


class Slow:
    """A tokenizer without offsets: the bytes of its tokens alone tell."""

    is_fast = False

    def __init__(self, tok):
        self.tok = tok

    def __getattr__(self, name):
        return getattr(self.tok, name)


sentence = st.builds(
    lambda words, end: " ".join(words) + end,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    st.sampled_from(ENDS),
)
paragraphs = st.lists(st.tuples(sentence, st.sampled_from(GAPS)), min_size=1, max_size=6)


def laid_out(parts: list[tuple[str, str]]) -> tuple[str, list[tuple[int, int]]]:
    text, spans = "", []
    for content, gap in parts:
        spans.append((len(text), len(text) + len(content)))
        text += content + gap
    return text, spans


def by_offsets(tok, text: str, spans: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """The rule of METHOD, written out over the tokenizer's own offsets: an independent reference."""
    encoding = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = []
    for begin, end in encoding["offset_mapping"]:
        characters = [c for c in range(begin, max(end, begin + 1)) if c < len(text)]
        solid = [c for c in characters if not text[c].isspace()]
        character = (solid or characters or [len(text) - 1])[0]
        ids.append(next((k for k, (_, stop) in enumerate(spans) if character < stop), len(spans) - 1))
    return encoding["input_ids"], ids


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(parts=paragraphs)
def test_equals_the_rule_over_the_tokenizers_offsets(kind, parts):
    text, spans = laid_out(parts)
    token_ids, expected = by_offsets(tokenizer(kind), text, spans)
    assert sentence_ids(tokenizer(kind), token_ids, text, spans) == expected


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@settings(max_examples=100, deadline=None)
@given(parts=paragraphs, cut=st.integers(0, 200))
def test_each_sentence_decodes_to_its_text_up_to_straddling_tokens(kind, parts, cut):
    tok = tokenizer(kind)
    text, spans = laid_out(parts)
    prefix = tok.encode("<think>\n\n</think>\n\n", add_special_tokens=False)
    suffix = tok.encode("<|im_end|>", add_special_tokens=False)
    whole = prefix + tok.encode(text, add_special_tokens=False) + suffix
    token_ids = whole[: len(prefix) + 1 + cut]
    ids = sentence_ids(tok, token_ids, text, spans)
    assert len(ids) == len(token_ids)
    assert ids == sorted(ids) and ids[0] == 0 and ids[-1] < len(spans)
    assert ids[: len(prefix)] == [0] * len(prefix)
    other = prefix + tok.encode("A dog.", add_special_tokens=False) + suffix
    beside = sentence_ids(tok, token_ids, text, spans, other)
    count = beside.count(SHARED)  # the white space that SentencePiece puts before a text is no text
    assert count >= len(prefix) and not tok.decode(token_ids[len(prefix) : count]).strip()
    assert beside == [SHARED] * count + ids[count:]
    if len(token_ids) < len(whole):
        return
    for k, group in itertools.groupby(range(len(ids)), ids.__getitem__):
        members = list(group)
        around = token_ids[max(members[0] - 1, 0) : members[-1] + 2]  # straddling tokens on both sides
        decoded = tok.decode(around, skip_special_tokens=True)
        core = text[spans[k][0] : spans[k][1]]
        assert core in decoded.replace("\ufffd", "") or any(ord(c) > 127 for c in core)


def test_rows_are_told_apart():
    """Numbers that a wrong rule would change: white space goes to the later sentence, the end to the last."""
    tok = tokenizer("byte_level")
    text = "A red square. The blue circle."
    token_ids = tok.encode("<think></think>" + text + "\n<|im_end|>", add_special_tokens=False)
    ids = sentence_ids(tok, token_ids, text, [(0, 13), (14, 30)])
    pieces = [tok.decode([t]) for t in token_ids]
    second = ids.index(1)
    assert "".join(pieces[:second]) == "<think></think>A red square."
    assert "".join(pieces[second:]) == " The blue circle.\n<|im_end|>"


def test_only_template_tokens_that_both_responses_begin_with_are_shared():
    tok = tokenizer("byte_level")

    def encode(text):
        return tok.encode(text, add_special_tokens=False)

    text, spans = "A cat. A dog.", [(0, 6), (7, 13)]
    block = encode("<think>\n\n</think>\n\n")
    token_ids = block + encode(text)
    plain = sentence_ids(tok, token_ids, text, spans)

    def shared(other):
        ids = sentence_ids(tok, token_ids, text, spans, other)
        assert ids == [SHARED] * ids.count(SHARED) + plain[ids.count(SHARED) :]
        return ids.count(SHARED)

    assert shared(token_ids) == shared(block + encode("A cat. No dog.")) == len(block)  # never the text
    assert shared(block[:2]) == shared(block[:2] + encode("Yes.")) == 2
    assert shared(encode("A cat. A dog.")) == 0
    whole = "<think>\n\n</think>\n\nA cat."  # a block that is the text itself
    assert SHARED not in sentence_ids(tok, token_ids[:-3], whole, [(0, len(whole))], token_ids)
    assert sentence_ids(tok, block, text, spans, block) == [SHARED] * len(block)  # cut before the text


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(context=paragraphs, answers=st.lists(paragraphs, min_size=2, max_size=2), glued=st.booleans())
def test_a_context_is_in_no_sentence(kind, context, answers, glued):
    """Against the tokenizer's own offsets: what both responses begin with and what ends in the context."""
    tok = tokenizer(kind)
    given_text = laid_out(context)[0].rstrip()
    before = given_text + ("" if glued else " ")
    sides = []
    for parts in answers:
        text, spans = laid_out(parts)
        sides.append((before + text, [(a + len(before), b + len(before)) for a, b in spans]))
    ends = [tok(text, add_special_tokens=False, return_offsets_mapping=True) for text, _ in sides]
    ids = [encoding["input_ids"] for encoding in ends]
    both = [a == b for a, b in zip(*ids, strict=False)]
    alike = both.index(False) if False in both else len(both)
    inside = [end <= len(given_text) for _, end in ends[0]["offset_mapping"]][:alike]
    expected = inside.index(False) if False in inside else alike
    for side, (text, spans) in enumerate(sides):
        found = sentence_ids(tok, ids[side], text, spans, ids[1 - side], len(given_text))
        assert untrained_tokens(found) == expected and -1 not in found[expected:]
        assert found[expected:] == by_offsets(tok, text, spans)[1][expected:]
    assert -1 not in sentence_ids(tok, ids[0], *sides[0], ids[1])


def test_what_a_template_writes_before_a_context_is_untrained_too():
    tok = tokenizer("byte_level")
    block = tok.encode("<think>\n\n</think>\n\n", add_special_tokens=False)
    texts = ("A table. A cat.", "A table. A dog sits.")
    ids = [block + tok.encode(text, add_special_tokens=False) for text in texts]
    found = sentence_ids(tok, ids[0], texts[0], [(9, 15)], ids[1], 8)
    assert tok.decode(ids[0][: untrained_tokens(found)]) == "<think>\n\n</think>\n\nA table."
    assert set(found) == {-1, 0} and tok.decode(ids[0][untrained_tokens(found) :]) == " A cat."
    cut = untrained_tokens(found)  # a length limit that leaves the context alone
    assert sentence_ids(tok, ids[0][:cut], texts[0], [(9, 15)], ids[1][:cut], 8) == [-1] * cut
    assert untrained_tokens([-1] * cut) == cut
    with pytest.raises(AlignmentError, match="in the untrained 8"):
        sentence_ids(tok, ids[0], texts[0], [(0, 8), (9, 15)], ids[1], 8)


def test_a_token_that_holds_template_and_text_is_the_texts():
    tok = tokenizer("unigram")
    text = "Ａ  ﬁne\n cat. 猫です。"
    own = tok.encode(text, add_special_tokens=False)
    template = tok.encode("the circle", add_special_tokens=False)
    merged = [*template, own[1], *own[1:]]  # the last token of the template stands for text as well
    ids = sentence_ids(tok, merged, text, [(0, 12), (13, 17)], merged)
    assert ids.count(SHARED) == len(template)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_character_over_several_tokens_stays_whole(kind):
    tok = tokenizer(kind)
    text = "Nice. 🦩🦩 Yes."
    token_ids = tok.encode(text, add_special_tokens=False)
    ids = sentence_ids(tok, token_ids, text, [(0, 5), (6, 8), (9, 13)])
    assert set(ids) == {0, 1, 2}
    if kind != "unigram":
        assert ids.count(1) >= 6  # two flamingos of four bytes each, spread over several tokens


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_cut_responses_keep_the_sentences_that_have_tokens(kind):
    tok = tokenizer(kind)
    text = "A red square lies on a table. The blue circle is next to it. There are dogs."
    spans = [(0, 29), (30, 60), (61, 76)]
    whole = tok.encode(text, add_special_tokens=False)
    full = sentence_ids(tok, whole, text, spans)
    assert set(full) == {0, 1, 2}
    for length in range(1, len(whole)):
        assert sentence_ids(tok, whole[:length], text, spans) == full[:length]


def test_text_that_also_stands_in_the_template_is_found_where_it_is_the_answer():
    tok = tokenizer("byte_level")
    text = "Yes. No."
    token_ids = tok.encode("<think>Yes. No.</think>\nYes. No.<|im_end|>", add_special_tokens=False)
    ids = sentence_ids(tok, token_ids, text, [(0, 4), (5, 8)])
    second = ids.index(1)
    assert "".join(tok.decode([t]) for t in token_ids[:second]).endswith("</think>\nYes.")


def test_stripped_by_the_template():
    tok = tokenizer("byte_level")
    text = "\n A cat. A dog. \n"
    token_ids = tok.encode(text.strip() + "</s>", add_special_tokens=False)
    ids = sentence_ids(tok, token_ids, text, [(2, 8), (9, 15)])
    assert set(ids) == {0, 1} and ids[-1] == 1


def test_normalising_tokenizer_with_template_text_around():
    tok = tokenizer("unigram")
    text = "Ａ  ﬁne\n cat. 猫です。 😀 Yes."
    spans = [(0, 12), (13, 17), (18, 24)]
    own, expected = by_offsets(tok, text, spans)
    template = tok.encode("the circle", add_special_tokens=False)
    eos = [tok.eos_token_id]
    assert sentence_ids(tok, [*template, *own, *eos], text, spans) == [0] * len(template) + expected + [2]


def test_a_repeated_sentence_at_the_end_is_no_cut_response():
    tok = tokenizer("unigram")
    text = (
        "The große. 红色 The große. "  # the unknown characters hide the whole text from the search by bytes
    )
    token_ids, expected = by_offsets(tok, text, [(0, 10), (11, 24)])
    assert 1 in expected
    assert sentence_ids(tok, token_ids, text, [(0, 10), (11, 24)]) == expected


def test_a_text_of_unknown_characters_is_no_template():
    tok = tokenizer("unigram")
    text, spans = "红色 红色 ", [(0, 2), (3, 5)]
    token_ids, expected = by_offsets(tok, text, spans)
    assert sentence_ids(tok, token_ids, text, spans) == expected


def test_a_cut_response_behind_a_templates_own_text():
    tok = tokenizer("byte_level")
    text = "A red square lies on a table. The blue circle is next to it."
    prefix = tok.encode("Answer: ", add_special_tokens=False)
    token_ids = (prefix + tok.encode(text, add_special_tokens=False))[:-4]
    ids = sentence_ids(tok, token_ids, text, [(0, 29), (30, 60)])
    assert (
        "".join(tok.decode([t]) for t in token_ids[: ids.index(1)]) == "Answer: A red square lies on a table."
    )


def test_a_cut_response_without_offsets_must_be_surely_there():
    """By bytes alone: at the start whatever its length, behind other text from 12 bytes on."""
    tok = Slow(tokenizer("byte_level"))
    text = "A red square lies on a table. The blue circle is next to it."
    prefix, own = (tok.encode(part, add_special_tokens=False) for part in ("Answer: ", text))
    sure = 0
    for length in range(1, len(own)):
        own_ids = sentence_ids(tok, own[:length], text, [(0, 29), (30, 60)])
        assert own_ids == sentence_ids(tok, own, text, [(0, 29), (30, 60)])[:length]
        if len(tok.decode(own[:length])) < 12:
            with pytest.raises(AlignmentError, match="cannot be found"):
                sentence_ids(tok, prefix + own[:length], text, [(0, 29), (30, 60)])
        else:
            sure += 1
            found = sentence_ids(tok, prefix + own[:length], text, [(0, 29), (30, 60)])
            assert found == [0] * len(prefix) + own_ids
    assert 0 < sure < len(own) - 1


def test_a_template_may_merge_two_tokens_at_either_end():
    """Where offsets tell: two foreign tokens of the first sentence and two of the last, no more."""
    tok = tokenizer("unigram")
    text = "Ａ  ﬁne\n cat sleeps. 猫です。 The blue circle isn't next to it."
    spans = [(0, 19), (20, 24), (25, len(text))]
    own, expected = by_offsets(tok, text, spans)
    offsets = tok(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    foreign = tok.encode("Hund", add_special_tokens=False)[-1]
    assert foreign not in own

    def decisive(token):
        begin, end = offsets[token]
        return next((c for c in range(begin, end) if not text[c].isspace()), begin)

    for count in (1, 2):
        begun = [foreign] * count + own[count:]
        assert sentence_ids(tok, begun, text, spans) == expected
        # merged tokens that hold the whole first sentence leave none of its own
        starts = decisive(count)
        assert sentence_ids(tok, begun, text, [(0, starts + 1), (starts + 1, len(text))])[count] == 0
        with pytest.raises(AlignmentError):
            sentence_ids(tok, begun, text, [(0, starts), (starts, len(text))])
        ended = own[:-count] + [foreign] * count
        assert sentence_ids(tok, ended, text, spans) == expected
        dropped = decisive(-count)
        assert sentence_ids(tok, ended, text, [(0, dropped), (dropped, len(text))])[-1] == 1
        with pytest.raises(AlignmentError):
            sentence_ids(tok, ended, text, [(0, dropped + 1), (dropped + 1, len(text))])
    for merged in ([foreign] * 3 + own[3:], own[:-3] + [foreign] * 3):
        with pytest.raises(AlignmentError):
            sentence_ids(tok, merged, text, spans)
    assert sentence_ids(tok, own[:-5], text, spans) == expected[:-5]  # cut is not merged


def test_a_long_text_is_shortened_in_the_message():
    tok = tokenizer("byte_level")
    trained = tok.encode("Else.", add_special_tokens=False)
    for length, told in ((60, "x" * 60), (61, "x" * 59 + "…")):
        with pytest.raises(AlignmentError, match=f"'{told}'"):
            sentence_ids(tok, trained, "x" * length, [(0, length)])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_rewritten_text_is_refused(kind):
    tok = tokenizer(kind)
    trained = tok.encode("Something else entirely, in other words.", add_special_tokens=False)
    with pytest.raises(AlignmentError, match="template changes it"):
        sentence_ids(tok, trained, "A red square. The blue circle.", [(0, 13), (14, 30)])
    with pytest.raises(AlignmentError, match="no sentences"):
        sentence_ids(tok, trained, "   ", [])


@pytest.mark.parametrize("spans", [[(0, 4), (3, 8)], [(4, 8), (0, 4)], [(0, 9)], [(-1, 4)], [(3, 2)]])
def test_spans_that_do_not_fit_the_text_are_refused(spans):
    tok = tokenizer("byte_level")
    with pytest.raises(AlignmentError, match="not ordered spans of its 8 characters"):
        sentence_ids(tok, tok("One. Two", add_special_tokens=False)["input_ids"], "One. Two", spans)
