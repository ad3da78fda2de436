"""Pixtral and Mistral 3: images of any shape, a token for each row of patches, Mistral."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
)

from .templates import mistral
from .text import SIZES, family_tokenizer, special_ids, vocabulary

IMAGE, PATCH = 64, 16


def pixtral() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        mistral(),
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        special=("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        prepend_bos=True,
    )
    config = LlavaConfig(
        vision_config=PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE,
            patch_size=PATCH,
        ),
        text_config=MistralConfig(
            vocab_size=vocabulary(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            sliding_window=None,
            **SIZES,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": IMAGE}, patch_size=PATCH),
        tokenizer,
        patch_size=PATCH,
        chat_template=tokenizer.chat_template,
    )
    return LlavaForConditionalGeneration(config), processor


def mistral3() -> tuple[Any, Any]:
    return _mistral3("Mistral", sliding_window=None)


def ministral3() -> tuple[Any, Any]:
    return _mistral3("Ministral3", sliding_window=None, head_dim=16)


def _mistral3(kind: str, **more: Any) -> tuple[Any, Any]:
    """Patches of Pixtral, merged two by two."""
    tokenizer = family_tokenizer(
        "byte_level",
        mistral(),
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        special=(
            "[INST]",
            "[/INST]",
            "[SYSTEM_PROMPT]",
            "[/SYSTEM_PROMPT]",
            "[IMG]",
            "[IMG_BREAK]",
            "[IMG_END]",
        ),
        prepend_bos=True,
    )
    text = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary(tokenizer), **special_ids(tokenizer), **SIZES, **more
    )
    config = transformers.Mistral3Config(
        vision_config=PixtralVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=IMAGE,
            patch_size=8,
        ),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": IMAGE}, patch_size=8),
        tokenizer,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=tokenizer.chat_template,
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor
