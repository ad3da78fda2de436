"""Gemma 3 and PaliGemma: SigLIP vision tower, Gemma language model, prefix seen in both directions."""

from __future__ import annotations

from typing import Any

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from .llava import IMAGE, PATCH, VISION
from .templates import gemma
from .templates import paligemma as paligemma_template
from .text import SIZES, family_tokenizer, vocabulary

PATCHES = (IMAGE // PATCH) ** 2


def gemma3() -> tuple[Any, Any]:
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = family_tokenizer(
        "byte_fallback",
        gemma(),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        special=("<start_of_turn>", "<end_of_turn>"),
        named=named,
        prepend_bos=True,
    )
    config = Gemma3Config(
        text_config=Gemma3TextConfig(
            vocab_size=vocabulary(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=64,
            layer_types=["sliding_attention", "full_attention"],
            **SIZES,
        ),
        vision_config=SiglipVisionConfig(vision_use_head=False, **VISION),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": IMAGE, "width": IMAGE}),
        tokenizer,
        chat_template=tokenizer.chat_template,
        image_seq_length=4,
    )
    return Gemma3ForConditionalGeneration(config), processor


def paligemma() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_fallback",
        paligemma_template(),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        named={"image_token": "<image>"},
        prepend_bos=True,
    )
    images = SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_seq_length=PATCHES)
    images.image_seq_length = PATCHES
    # The processor adds location and segmentation tokens to the vocabulary: build it before counting rows.
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    config = PaliGemmaConfig(
        text_config=GemmaConfig(
            vocab_size=vocabulary(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            head_dim=16,
            **SIZES,
        ),
        vision_config=SiglipVisionConfig(vision_use_head=False, **VISION),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vocab_size=vocabulary(tokenizer),
        projection_dim=SIZES["hidden_size"],
        hidden_size=SIZES["hidden_size"],
    )
    return PaliGemmaForConditionalGeneration(config), processor
