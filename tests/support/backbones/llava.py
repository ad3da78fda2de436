"""The LLaVA family: CLIP or SigLIP vision tower, projector, Llama or Qwen2 language model."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from .templates import LLAVA_PUBLISHED, chatml, granite, mistral, vicuna
from .text import SIZES, family_tokenizer, special_ids, vocabulary

IMAGE, PATCH = 56, 14
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}


GRID = [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE]]


def vicuna_tokenizer(image: str = "<image>\n") -> PreTrainedTokenizerFast:
    return _llava_tokenizer(vicuna(image))


def _llava_tokenizer(template: str, *special: str) -> PreTrainedTokenizerFast:
    return family_tokenizer(
        "byte_fallback",
        template,
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        special=("<image>", *special),
        prepend_bos=True,
        older_class="LlamaTokenizerFast",
    )


def _llama(tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SIZES,
    )


def llava() -> tuple[Any, Any]:
    tokenizer = _llava_tokenizer(LLAVA_PUBLISHED)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(projection_dim=32, **VISION),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(IMAGE // PATCH) ** 2,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    tokenizer = _llava_tokenizer(LLAVA_PUBLISHED)
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(projection_dim=32, **VISION),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
        image_seq_length=(IMAGE // PATCH) ** 2,
    )
    return LlavaNextForConditionalGeneration(config), _next_processor(tokenizer)


def _next_images() -> LlavaNextImageProcessor:
    return LlavaNextImageProcessor(
        size={"shortest_edge": IMAGE},
        crop_size={"height": IMAGE, "width": IMAGE},
        image_grid_pinpoints=GRID,
    )


def _next_processor(tokenizer: Any) -> LlavaNextProcessor:
    return LlavaNextProcessor(
        _next_images(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        chatml("<image>\n"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>", "<image>", "<video>"),
    )
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **VISION),
        text_config=Qwen2Config(
            vocab_size=vocabulary(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **SIZES
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_grid_pinpoints=GRID),
        tokenizer,
        LlavaOnevisionVideoProcessor(size={"height": IMAGE, "width": IMAGE}),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava_next_video() -> tuple[Any, Any]:
    tokenizer = _llava_tokenizer(LLAVA_PUBLISHED, "<video>")
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(projection_dim=32, **VISION),
        text_config=_llama(tokenizer),
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        image_grid_pinpoints=GRID,
        image_seq_length=(IMAGE // PATCH) ** 2,
        video_seq_length=4,
    )
    size = {"size": {"shortest_edge": IMAGE}, "crop_size": {"height": IMAGE, "width": IMAGE}}
    processor = transformers.LlavaNextVideoProcessor(
        transformers.LlavaNextVideoVideoProcessor(**size),
        LlavaNextImageProcessor(**size, image_grid_pinpoints=GRID),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config), processor


def granite_vision() -> tuple[Any, Any]:
    """LLaVA-NeXT around Granite, with its multipliers, and features of several layers of the tower."""
    tokenizer = family_tokenizer(
        "byte_level",
        granite(),
        bos="<|end_of_text|>",
        eos="<|end_of_text|>",
        pad="<|pad|>",
        special=("<|user|>", "<|assistant|>", "<|system|>", "<image>"),
    )
    text = transformers.GraniteConfig(
        vocab_size=vocabulary(tokenizer),
        logits_scaling=8.0,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.0625,
        **SIZES,
        **special_ids(tokenizer),
    )
    config = LlavaNextConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **VISION),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
        image_seq_length=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        vision_feature_layer=[-2, -1],
    )
    processor = LlavaNextProcessor(
        _next_images(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaNextForConditionalGeneration(config), processor


def llava_next_mistral() -> tuple[Any, Any]:
    tokenizer = _llava_tokenizer(mistral("<image>\n"), "[INST]", "[/INST]")
    text = transformers.MistralConfig(
        vocab_size=vocabulary(tokenizer), sliding_window=None, **SIZES, **special_ids(tokenizer)
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(projection_dim=32, **VISION),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=GRID,
        image_seq_length=(IMAGE // PATCH) ** 2,
    )
    return LlavaNextForConditionalGeneration(config), _next_processor(tokenizer)
