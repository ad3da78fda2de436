"""Gemma 3, Gemma 4 and PaliGemma: Gemma language model, image or prompt seen in both directions."""

from __future__ import annotations

from typing import Any

import transformers
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
from .templates import gemma, gemma4_turns
from .templates import paligemma as paligemma_template
from .text import SIZES, family_tokenizer, special_ids, vocabulary

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
        older_class="GemmaTokenizerFast",
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


EARS = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "output_proj_dims": 32,
    "subsampling_conv_channels": [128, 4],
}


def gemma4() -> tuple[Any, Any]:
    """Images of any shape, whose tokens see each other both ways in layers with a window."""
    return _gemma4("vision")


def gemma4_small() -> tuple[Any, Any]:
    """E2B and E4B: every token sees those before it alone, and the model hears."""
    return _gemma4(None, audio=True)


def _gemma4(both_ways: str | None, audio: bool = False) -> tuple[Any, Any]:
    """Embeddings of their own for every layer, and wider heads in layers without a window."""
    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    tokenizer = family_tokenizer(
        "byte_fallback",
        gemma4_turns(),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        special=("<|turn>", "<turn|>", "<|video|>"),
        named=named,
        prepend_bos=True,
    )
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **SIZES,
        **special_ids(tokenizer),
        "vocab_size": vocabulary(tokenizer),
        "vocab_size_per_layer_input": vocabulary(tokenizer),
        "hidden_size_per_layer_input": 8,
        "head_dim": 16,
        "global_head_dim": 32,
        "sliding_window": 64,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 30.0,
        "use_bidirectional_attention": both_ways,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "patch_size": 8,
        "position_embedding_size": 256,
        "pooling_kernel_size": 3,
    }
    config = transformers.Gemma4Config(
        text_config=text,
        vision_config=vision,
        audio_config=dict(EARS) if audio else None,
        image_token_id=ids("<|image|>"),
        boi_token_id=ids("<|image>"),
        eoi_token_id=ids("<image|>"),
        video_token_id=ids("<|video|>"),
        audio_token_id=ids("<|audio|>"),
        boa_token_id=ids("<|audio>"),
        eoa_token_index=ids("<audio|>"),
    )
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(patch_size=8, max_soft_tokens=70),
        tokenizer,
        transformers.Gemma4VideoProcessor(patch_size=8, max_soft_tokens=70),
        chat_template=tokenizer.chat_template,
        image_seq_length=70,
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor
