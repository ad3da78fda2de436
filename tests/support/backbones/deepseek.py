"""DeepSeek-VL, and its hybrid of two vision towers."""

from __future__ import annotations

from typing import Any

import transformers

from .llava import IMAGE, PATCH, VISION
from .templates import deepseek
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
