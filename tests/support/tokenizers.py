"""Small tokenizers of the three families, trained on the spot, as `transformers` fast tokenizers."""

from __future__ import annotations

from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TOKENIZERS = ("byte_level", "byte_fallback", "unigram")

CORPUS = [
    "A red square lies on a white table. The blue circle is next to it, isn't it?",
    "There are 3 dogs (two brown, one black).\n\n1. The first dog sleeps.\n2. The second runs!",
    "图片中有一只猫。它坐在桌子上。这是一张照片。",
    "写真には猫がいます。テーブルの上に座っています。",
    "Das Bild zeigt einen großen Hund. Él está en la playa. Ça va très bien.",
    "**Colours**: red, green and blue. `x = 1` is code. 3.14 is a number. 😀 Nice! 👍🏽 Yes.",
]


@lru_cache
def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """`byte_level` (GPT-2, Qwen), `byte_fallback` (Llama, Gemma) or `unigram` (T5, XLM-R; normalises)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if kind == "byte_level":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    elif kind == "byte_fallback":
        raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        # Exactly ASCII has tokens of its own; with a bare limit, ties would make the vocabulary vary.
        ascii = [*map(chr, range(33, 127)), "▁"]
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=special, initial_alphabet=ascii, limit_alphabet=len(ascii)
        )
    elif kind == "unigram":
        raw = Tokenizer(models.Unigram())
        raw.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace(" {2,}", " "), normalizers.Replace("\n", " ")]
        )
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        raw.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>")
    else:
        raise ValueError(kind)
    raw.train_from_iterator(CORPUS * 20, trainer)
    if kind == "byte_fallback":
        # Byte tokens are ordinary vocabulary in Llama's tokenizer, not special tokens.
        raw = _without_added_byte_tokens(raw)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    thinking = [AddedToken(token, normalized=False) for token in ("<think>", "</think>")]
    fast.add_tokens([AddedToken("<|im_end|>", special=True), *thinking])
    return fast


def _without_added_byte_tokens(raw: Tokenizer) -> Tokenizer:
    import json

    state = json.loads(raw.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))
