"""One small model each of Llama 4, VideoLLaMA 3, LightOnOCR, Aria and Molmo 2."""

from __future__ import annotations

from typing import Any

import transformers

from .llava import IMAGE, PATCH
from .templates import chatml, llama4_turns
from .text import SIZES, family_tokenizer, special_ids, vocabulary

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {**SIZES, **special_ids(tokenizer), "vocab_size": vocabulary(tokenizer), **more}


def _chatml(image: str, named: dict[str, str], *special: str, bos: str | None = None) -> Any:
    return family_tokenizer(
        "byte_level",
        chatml(image),
        bos=bos,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>", *special),
        named=named,
    )


def llama4() -> tuple[Any, Any]:
    """Experts in every other layer, attention in chunks, and a layer without positions."""
    tokenizer = family_tokenizer(
        "byte_level",
        llama4_turns(),
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        pad="<|finetune_right_pad|>",
        special=(
            "<|header_start|>", "<|header_end|>", "<|image|>", "<|image_start|>", "<|image_end|>",
            "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>",
        ),
    )  # fmt: skip
    ids = tokenizer.convert_tokens_to_ids
    text = _text(
        tokenizer, intermediate_size=32, intermediate_size_mlp=96, head_dim=16, num_local_experts=4,
        interleave_moe_layer_step=2, no_rope_layers=[1, 0], attention_chunk_size=64,
    )  # fmt: skip
    vision = {
        **TOWER,
        "intermediate_size": 128,
        "image_size": IMAGE,
        "patch_size": PATCH,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
        "vision_output_dim": 32,
    }
    config = transformers.Llama4Config(
        text_config=text,
        vision_config=vision,
        image_token_index=ids("<|patch|>"),
        boi_token_index=ids("<|image_start|>"),
        eoi_token_index=ids("<|image_end|>"),
    )
    images = transformers.Llama4ImageProcessor(size={"height": IMAGE, "width": IMAGE}, max_patches=2)
    processor = transformers.Llama4Processor(
        images, tokenizer, patch_size=PATCH, chat_template=tokenizer.chat_template
    )
    return transformers.Llama4ForConditionalGeneration(config), processor


def video_llama_3() -> tuple[Any, Any]:
    named = {"image_token": "<image>", "video_token": "<video>"}
    tokenizer = _chatml("<image>\n", named)
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.VideoLlama3Config(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={**TOWER, "patch_size": PATCH},
        image_token_id=ids("<image>"),
        video_token_id=ids("<video>"),
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(size=size),
        tokenizer,
        transformers.VideoLlama3VideoProcessor(size=size),
        chat_template=tokenizer.chat_template,
    )
    return transformers.VideoLlama3ForConditionalGeneration(config), processor


def lighton_ocr() -> tuple[Any, Any]:
    """Pixtral's tower in front of Qwen3."""
    named = {
        "image_token": "<|image_pad|>",
        "image_break_token": "<|vision_pad|>",
        "image_end_token": "<|vision_end|>",
    }
    tokenizer = _chatml("<|image_pad|>", named)
    config = transformers.LightOnOcrConfig(
        text_config={"model_type": "qwen3", **_text(tokenizer, head_dim=16)},
        vision_config={"model_type": "pixtral", **TOWER, "image_size": 112, "patch_size": PATCH},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        tie_word_embeddings=False,
    )
    images = transformers.PixtralImageProcessor(
        size={"longest_edge": 112}, patch_size={"height": 2 * PATCH, "width": 2 * PATCH}
    )
    processor = transformers.LightOnOcrProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return transformers.LightOnOcrForConditionalGeneration(config), processor


def aria() -> tuple[Any, Any]:
    """Experts in every layer, and queries that read the tower's patches."""
    tokenizer = _chatml(
        "<fim_prefix><|img|><fim_suffix>", {"image_token": "<|img|>"}, "<fim_prefix>", "<fim_suffix>"
    )
    size = 980  # the processor asks for it, whatever its image processor was given
    patch = 140
    text = _text(tokenizer, moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1, head_dim=16)
    config = transformers.AriaConfig(
        text_config=transformers.AriaTextConfig(**text),
        vision_config=transformers.Idefics3VisionConfig(**TOWER, image_size=size, patch_size=patch),
        projector_patch_to_query_dict={(size // patch) ** 2: 4},
        image_token_index=tokenizer.convert_tokens_to_ids("<|img|>"),
    )
    processor = transformers.AriaProcessor(
        transformers.AriaImageProcessor(max_image_size=size, min_image_size=56),
        tokenizer,
        chat_template=tokenizer.chat_template,
        size_conversion={size: 4},
    )
    return transformers.AriaForConditionalGeneration(config), processor


def molmo2() -> tuple[Any, Any]:
    """Crops of an image, whose patches are pooled by lists of indices."""
    marks = (
        "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>",
        "<frame_end>", "<im_low>",
    )  # fmt: skip
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tokenizer = _chatml("<|image|>", named, *marks, bos="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Molmo2Config(
        text_config=_text(tokenizer, head_dim=16, additional_vocab_size=64),
        vision_config={
            **TOWER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "image_size": [IMAGE, IMAGE],
            "patch_size": PATCH,
            "num_position_embeddings": (IMAGE // PATCH) ** 2,
        },
        adapter_config={
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "text_hidden_size": 64,
            "vision_feature_layer": [-1, -2],
        },
        image_start_token_id=ids("<im_start>"),
        low_res_image_start_token_id=ids("<low_res_im_start>"),
        image_end_token_id=ids("<im_end>"),
        image_patch_id=ids("<im_patch>"),
        frame_start_token_id=ids("<frame_start>"),
        frame_end_token_id=ids("<frame_end>"),
    )
    size = {"height": IMAGE, "width": IMAGE}
    processor = transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(size=size, max_crops=2, overlap_margins=[1, 1]),
        transformers.Molmo2VideoProcessor(size=size),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return transformers.Molmo2ForConditionalGeneration(config), processor
