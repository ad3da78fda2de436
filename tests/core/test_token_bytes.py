"""Each token's bytes, told of it alone: elsewhere another way of finding the text hides a wrong one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from aspo_plugin.alignment.token_bytes import NO_TEXT, TokenBytes
from tests.support.tokenizers import TOKENIZERS, tokenizer

TEXT = "Größe 3.14, isn't it? 猫。 😀 👍🏽\n\nYes: <0x41> ×"


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_the_tokens_of_a_text_hold_its_bytes(kind):
    tok = tokenizer(kind)
    lookup = TokenBytes(tok)
    pieces = [lookup(token) for token in tok.encode(TEXT, add_special_tokens=False)]
    assert b"".join(pieces).lstrip(b" ") == TEXT.encode()
    assert pieces == [lookup(token) for token in tok.encode(TEXT, add_special_tokens=False)]


def test_a_normalising_tokenizers_tokens_hold_what_it_made_of_the_text():
    tok = tokenizer("unigram")
    lookup = TokenBytes(tok)
    ids = tok.encode("The ﬁne cat.", add_special_tokens=False)
    assert b"".join(lookup(token) for token in ids) == b" The fine cat."


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokens_without_text_and_added_ones(kind):
    tok = tokenizer(kind)
    lookup = TokenBytes(tok)
    for name in ("<pad>", "<s>", "</s>", "<unk>"):
        assert lookup(tok.convert_tokens_to_ids(name)) == NO_TEXT
    for name in ("<think>", "<|im_end|>"):
        assert lookup(tok.convert_tokens_to_ids(name)) == name.encode()
    assert lookup(-100) == NO_TEXT and lookup(len(tok) + 7) == NO_TEXT


def test_the_first_token_may_be_text():
    words = Tokenizer(models.WordLevel({"cat": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words)
    lookup = TokenBytes(fast)
    assert lookup(0) == b"cat"
    assert lookup(1) == b"[UNK]"  # nobody told which token is the unknown one


def test_other_tokenizers_are_asked_to_decode():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "play</w>": 1, "ing": 2}, unk_token="[UNK]"))
    words.decoder = decoders.BPEDecoder(suffix="</w>")
    fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    lookup = TokenBytes(fast)
    assert [lookup(token) for token in range(3)] == [NO_TEXT, b"play", b"ing"]


@pytest.mark.parametrize(
    "more, piece, expected",
    [
        ({"byte_decoder": {}}, "Ġcat", b" cat"),  # GPT-2's bytes, of a tokenizer without a fast one
        ({"sp_model": object()}, "▁cat", b" cat"),
        ({"sp_model": object()}, "<0xF0>", b"\xf0"),
        ({"sp_model": object()}, "<0x0a>", b"\n"),
        ({"byte_decoder": {}}, b"\xf0\x9f", b"\xf0\x9f"),  # as tiktoken's tokenizers give them
        ({"byte_decoder": {}}, None, NO_TEXT),
        ({}, "▁cat", b"decoded"),
    ],
)
def test_slow_tokenizers(more, piece, expected):
    class Slow(SimpleNamespace):
        __hash__ = object.__hash__

    slow = Slow(
        added_tokens_decoder={}, all_special_ids=[], convert_ids_to_tokens=lambda token: piece,
        decode=lambda ids: "decoded" if ids == [5] else "another", **more,
    )  # fmt: skip
    assert TokenBytes(slow)(5) == expected


def test_template_leads_with_added_tokens_and_white_space():
    tok = tokenizer("byte_level")
    lookup = TokenBytes(tok)
    end, think = (tok.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<think>"))
    spaced = tok.encode("\n cat", add_special_tokens=False)
    assert lookup.leading_template([end, think, *spaced]) == len("<|im_end|><think>\n ")
    assert lookup.leading_template([tok.unk_token_id, *spaced]) == 0
    assert lookup.leading_template([tok.eos_token_id]) == len(NO_TEXT)
    assert lookup.leading_template(tok.encode("cat", add_special_tokens=False)) == 0
