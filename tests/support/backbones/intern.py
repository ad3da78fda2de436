"""InternVL in its Hugging Face form: InternViT, pixel shuffle, Qwen2."""

from __future__ import annotations

from typing import Any

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)

from .llava import IMAGE, PATCH
from .templates import chatml
from .text import SIZES, family_tokenizer, vocabulary


def internvl() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        chatml("<IMG_CONTEXT>\n"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>",),
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    tokens = (IMAGE // PATCH) ** 2 // 4  # pixel shuffle by 2 in each direction
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=[IMAGE, IMAGE],
            patch_size=[PATCH, PATCH],
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            **SIZES,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    size = {"height": IMAGE, "width": IMAGE}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, crop_to_patches=True, min_patches=1, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=tokens,
        chat_template=tokenizer.chat_template,
    )
    return InternVLForConditionalGeneration(config), processor
