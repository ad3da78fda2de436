"""Dual encoders for similarity: CLIP and SigLIP."""

from __future__ import annotations

from typing import Any

from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from .text import family_tokenizer, vocabulary

IMAGE, LENGTH = 32, 77
ENCODER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**ENCODER, "image_size": IMAGE, "patch_size": 8}


def clip() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        "",
        bos="<|startoftext|>",
        eos="<|endoftext|>",
        pad="<pad>",
        prepend_bos=True,
        append_eos=True,
    )
    tokenizer.model_max_length = LENGTH
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={
            **ENCODER,
            **ids,
            "vocab_size": vocabulary(tokenizer),
            "max_position_embeddings": LENGTH,
            "pad_token_id": tokenizer.pad_token_id,
            "projection_dim": 24,
        },
        vision_config={**VISION, "projection_dim": 24},
        projection_dim=24,
    )
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE})
    return CLIPModel(config), CLIPProcessor(images, tokenizer)


def siglip() -> tuple[Any, Any]:
    """SigLIP pads every text to its full length and adds the end token only, as the real one does."""
    tokenizer = family_tokenizer("byte_fallback", "", bos=None, eos="</s>", pad="<pad>", append_eos=True)
    tokenizer.model_max_length = 64
    config = SiglipConfig(
        text_config={
            **ENCODER,
            "vocab_size": vocabulary(tokenizer),
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "projection_size": 32,
        },
        vision_config=VISION,
    )
    images = SiglipImageProcessor(size={"height": IMAGE, "width": IMAGE})
    return SiglipModel(config), SiglipProcessor(images, tokenizer)
