"""GLM-4V (4.1V, 4.5V, 4.6V) and GLM-OCR: patches of any shape, multimodal rotary embedding, GLM-4."""

from __future__ import annotations

from typing import Any

import transformers

from .templates import glm
from .text import SIZES, family_tokenizer, rope, special_ids, vocabulary

TOKENS = (
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>",
    "<|image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>",
)  # fmt: skip
# From 4 to 32 merged patches of an image.
SIZE = {"shortest_edge": 4 * 28 * 28, "longest_edge": 32 * 28 * 28}


def glm4v() -> tuple[Any, Any]:
    return _glm("Glm4v")


def glm4v_moe() -> tuple[Any, Any]:
    """A mixture of four experts behind a dense first layer."""
    return _glm(
        "Glm4vMoe", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, n_shared_experts=1,
        first_k_dense_replace=1, head_dim=16, n_group=1, topk_group=1,
    )  # fmt: skip


def glm_ocr() -> tuple[Any, Any]:
    return _glm("GlmOcr", head_dim=16)


def glm46v() -> tuple[Any, Any]:
    return _glm("Glm46V", processing="Glm46V")


def _glm(kind: str, processing: str = "Glm4v", **text: int) -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level", glm(), bos=None, eos="<|endoftext|>", pad="<|endoftext|>", special=TOKENS
    )
    ids = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, f"{kind}Config")(
        text_config={
            **SIZES,
            **special_ids(tokenizer),
            "vocab_size": vocabulary(tokenizer),
            **rope(mrope_section=[2, 3, 3], partial_rotary_factor=1.0),
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "out_hidden_size": 64,
            "intermediate_size": 64,
        },
        image_token_id=ids("<|image|>"),
        video_token_id=ids("<|video|>"),
        image_start_token_id=ids("<|begin_of_image|>"),
        image_end_token_id=ids("<|end_of_image|>"),
        video_start_token_id=ids("<|begin_of_video|>"),
        video_end_token_id=ids("<|end_of_video|>"),
    )
    processor = getattr(transformers, f"{processing}Processor")(
        getattr(transformers, f"{processing}ImageProcessor")(size=SIZE),
        tokenizer,
        getattr(transformers, f"{processing}VideoProcessor")(size=SIZE),
        chat_template=tokenizer.chat_template,
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor
