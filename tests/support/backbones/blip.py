"""InstructBLIP: EVA-CLIP vision tower, Q-Former with a tokenizer of its own, Vicuna."""

from __future__ import annotations

from typing import Any

from tokenizers import BertWordPieceTokenizer
from transformers import (
    BlipImageProcessor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from tests.support.tokenizers import CORPUS

from .llava import IMAGE, PATCH, vicuna_tokenizer
from .text import SIZES, vocabulary

QUERIES = 8


def _qformer_tokenizer() -> PreTrainedTokenizerFast:
    raw = BertWordPieceTokenizer(lowercase=True)
    raw.train_from_iterator(CORPUS * 20, vocab_size=400)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw._tokenizer,
        bos_token="[DEC]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


def instructblip() -> tuple[Any, Any]:
    # Its processor saves no chat template, so the tokenizer keeps it; image tokens precede all text.
    tokenizer, questions = vicuna_tokenizer(image=""), _qformer_tokenizer()
    processor = InstructBlipProcessor(
        BlipImageProcessor(size={"height": IMAGE, "width": IMAGE}),
        tokenizer,
        questions,
        num_query_tokens=QUERIES,
    )
    encoder = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = InstructBlipConfig(
        vision_config={
            **encoder,
            "num_hidden_layers": 2,
            "image_size": IMAGE,
            "patch_size": PATCH,
            "initializer_range": 0.02,  # its default, 1e-10, would hide the image from a random model
        },
        qformer_config={
            **encoder,
            "num_hidden_layers": 2,
            "vocab_size": vocabulary(questions),
            "encoder_hidden_size": 32,
            "pad_token_id": questions.pad_token_id,
        },
        text_config=LlamaConfig(
            vocab_size=vocabulary(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **SIZES,
        ).to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return InstructBlipForConditionalGeneration(config), processor
