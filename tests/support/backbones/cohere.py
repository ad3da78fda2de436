"""Aya Vision and Command A Vision: tiles of SigLIP, Cohere 2 with its pattern of windows."""

from __future__ import annotations

from typing import Any

import transformers

from .llava import IMAGE, PATCH, VISION
from .templates import cohere
from .text import SIZES, family_tokenizer, special_ids, vocabulary

TURNS = (
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|START_RESPONSE|>", "<|END_RESPONSE|>",
)  # fmt: skip
MARKS = {
    "boi_token": "<|START_OF_IMG|>",
    "eoi_token": "<|END_OF_IMG|>",
    "image_token": "<|IMG_PATCH|>",
    "img_line_break_token": "<|IMG_LINE_BREAK|>",
}


def _tokenizer(image: str, special: tuple[str, ...], named: dict[str, str] | None = None) -> Any:
    return family_tokenizer(
        "byte_level",
        cohere(image),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        pad="<PAD>",
        special=(*TURNS, *special),
        named=named,
        prepend_bos=True,
    )


def _text(tokenizer: Any) -> Any:
    return transformers.Cohere2Config(
        vocab_size=vocabulary(tokenizer),
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
        logit_scale=0.25,
        **SIZES,
        **special_ids(tokenizer),
    )


def aya_vision() -> tuple[Any, Any]:
    tiles = ("TILE_GLOBAL", *(f"TILE_{number}" for number in range(1, 13)))
    tokenizer = _tokenizer("<image>", ("<image>", *MARKS.values(), *tiles))
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **VISION),
        text_config=_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    images = transformers.GotOcr2ImageProcessor(
        size={"height": IMAGE, "width": IMAGE}, crop_to_patches=True, min_patches=1, max_patches=2
    )
    processor = transformers.AyaVisionProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        img_size=IMAGE,
        downsample_factor=2,
        chat_template=tokenizer.chat_template,
    )
    return transformers.AyaVisionForConditionalGeneration(config), processor


def cohere2_vision() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<|IMG_PATCH|>", (), MARKS)
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **VISION),
        text_config=_text(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        alignment_intermediate_size=64,
    )
    images = transformers.Cohere2VisionImageProcessor(
        size={"height": IMAGE, "width": IMAGE}, min_patches=1, max_patches=2, patch_size=IMAGE // PATCH // 2
    )
    processor = transformers.Cohere2VisionProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return transformers.Cohere2VisionForConditionalGeneration(config), processor
