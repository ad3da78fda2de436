"""The LLaVA family: CLIP or SigLIP vision tower, projector, Llama or Qwen2 language model."""

from __future__ import annotations

from typing import Any

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

from .templates import chatml, vicuna
from .text import SIZES, family_tokenizer, vocabulary

IMAGE, PATCH = 56, 14
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}


def vicuna_tokenizer(image: str = "<image>\n") -> PreTrainedTokenizerFast:
    return family_tokenizer(
        "byte_fallback",
        vicuna(image),
        bos="<s>",
        eos="</s>",
        pad="<pad>",
        special=("<image>",),
        prepend_bos=True,
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
    tokenizer = vicuna_tokenizer()
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
    tokenizer = vicuna_tokenizer()
    grid = [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(projection_dim=32, **VISION),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        image_seq_length=(IMAGE // PATCH) ** 2,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": IMAGE},
            crop_size={"height": IMAGE, "width": IMAGE},
            image_grid_pinpoints=grid,
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=tokenizer.chat_template,
        num_additional_image_tokens=1,
    )
    return LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        chatml("<image>\n"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>", "<image>", "<video>"),
    )
    grid = [[IMAGE, 2 * IMAGE], [2 * IMAGE, IMAGE]]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **VISION),
        text_config=Qwen2Config(
            vocab_size=vocabulary(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **SIZES
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": IMAGE, "width": IMAGE}, image_grid_pinpoints=grid),
        tokenizer,
        LlavaOnevisionVideoProcessor(size={"height": IMAGE, "width": IMAGE}),
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor
