"""DeepSeek-VL, its hybrid of two vision towers, and DeepSeek-OCR 2."""

from __future__ import annotations

from typing import Any

import transformers

from .llava import IMAGE, PATCH, VISION
from .templates import deepseek, plain_turns
from .text import SIZES, family_tokenizer, special_ids, vocabulary

# SAM's tower, which sees the same image at a higher resolution.
SAM = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 16,
    "mlp_dim": 64,
    "window_size": 4,
    "global_attn_indexes": [1],
}


def _tokenizer(image: str) -> Any:
    return family_tokenizer(
        "byte_level",
        deepseek(image),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        named={"image_token": image},
        prepend_bos=True,
    )


def _config(kind: Any, tokenizer: Any, **towers: Any) -> Any:
    text = transformers.LlamaConfig(vocab_size=vocabulary(tokenizer), **SIZES, **special_ids(tokenizer))
    return kind(
        text_config=text,
        vision_config=transformers.SiglipVisionConfig(vision_use_head=False, **VISION),
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        tie_word_embeddings=False,
        **towers,
    )


def deepseek_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image_placeholder>")
    processor = transformers.DeepseekVLProcessor(
        transformers.DeepseekVLImageProcessor(size={"height": IMAGE, "width": IMAGE}, min_size=PATCH),
        tokenizer,
        chat_template=tokenizer.chat_template,
        num_image_tokens=(IMAGE // PATCH) ** 2,
    )
    config = _config(transformers.DeepseekVLConfig, tokenizer)
    return transformers.DeepseekVLForConditionalGeneration(config), processor


def deepseek_vl_hybrid() -> tuple[Any, Any]:
    tokenizer = _tokenizer("<image_placeholder>")
    high = transformers.SamVisionConfig(image_size=128, **SAM)
    images = transformers.DeepseekVLHybridImageProcessor(
        size={"height": IMAGE, "width": IMAGE}, high_res_size={"height": 128, "width": 128}, min_size=PATCH
    )
    processor = transformers.DeepseekVLHybridProcessor(
        images, tokenizer, chat_template=tokenizer.chat_template, num_image_tokens=(IMAGE // PATCH) ** 2
    )
    config = _config(transformers.DeepseekVLHybridConfig, tokenizer, high_res_vision_config=high)
    return transformers.DeepseekVLHybridForConditionalGeneration(config), processor


def deepseek_ocr2() -> tuple[Any, Any]:
    """SAM's tower, then a language model whose queries read its patches; experts behind a dense layer.

    The numbers of queries are in the class: 256 for the whole image, 144 for each tile of a larger one.
    """
    whole, tile = 64, 48
    template = plain_turns("<image>\n", before="<bos>", end="<eos>", user="", assistant="")
    tokenizer = family_tokenizer(
        "byte_level", template, bos="<bos>", eos="<eos>", pad="<pad>", named={"image_token": "<image>"}
    )
    sam = {
        **SAM,
        "image_size": whole,
        "patch_size": 1,
        "window_size": 8,
        "global_attn_indexes": [],
        "downsample_channels": [24, 32],
    }
    encoder = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 64,
    }
    text = {
        **SIZES,
        **special_ids(tokenizer),
        "vocab_size": vocabulary(tokenizer),
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "mlp_layer_types": ["dense", "sparse"],
    }
    config = transformers.DeepseekOcr2Config(
        text_config=text,
        vision_config={"sam_config": sam, "encoder_config": encoder},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )
    images = transformers.DeepseekOcr2ImageProcessor(size={"height": whole, "width": whole}, tile_size=tile)
    processor = transformers.DeepseekOcr2Processor(
        images, tokenizer, chat_template=tokenizer.chat_template, patch_size=1
    )
    return transformers.DeepseekOcr2ForConditionalGeneration(config), processor
