"""Idefics2, and Idefics3 and SmolVLM whose images are split into tiles behind row and column tokens."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from .llava import IMAGE, PATCH
from .templates import idefics
from .text import SIZES, family_tokenizer, special_ids, vocabulary

TOKENS = (IMAGE // PATCH) ** 2 // 4  # pixel shuffle by 2 in each direction
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
}
# Tiles of one patch grid, an image of at most two tiles a side.
TILES = {"size": {"longest_edge": 2 * IMAGE}, "max_image_size": {"longest_edge": IMAGE}}


def _tokenizer() -> PreTrainedTokenizerFast:
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    return family_tokenizer(
        "byte_level",
        idefics(),
        bos="<|im_start|>",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        special=("<fake_token_around_image>", "<image>", "<global-img>", "<video>", *tiles),
    )


def _config(kind: type, tokenizer: Any) -> Any:
    return kind(
        vision_config=dict(VISION),
        text_config=LlamaConfig(
            vocab_size=vocabulary(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **SIZES,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )


def idefics3() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**TILES),
        tokenizer,
        image_seq_len=TOKENS,
        chat_template=tokenizer.chat_template,
    )
    return Idefics3ForConditionalGeneration(_config(Idefics3Config, tokenizer)), processor


def smolvlm_config(tokenizer: Any = None) -> Any:
    """Without its processor, which needs num2words."""
    return _config(SmolVLMConfig, tokenizer or _tokenizer())


def smolvlm() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**TILES),
        tokenizer,
        SmolVLMVideoProcessor(**TILES),
        image_seq_len=TOKENS,
        chat_template=tokenizer.chat_template,
    )
    return SmolVLMForConditionalGeneration(smolvlm_config(tokenizer)), processor


def idefics2() -> tuple[Any, Any]:
    """A perceiver that makes the same number of tokens of every image."""
    tokenizer = _tokenizer()
    text = transformers.MistralConfig(
        vocab_size=vocabulary(tokenizer), sliding_window=None, **special_ids(tokenizer), **SIZES
    )
    perceiver = {
        "hidden_size": 64,
        "resampler_n_latents": 8,
        "resampler_depth": 1,
        "resampler_n_heads": 4,
        "resampler_head_dim": 16,
        "num_key_value_heads": 2,
    }
    config = transformers.Idefics2Config(
        vision_config=dict(VISION),
        perceiver_config=perceiver,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = transformers.Idefics2ImageProcessor(
        size={"shortest_edge": IMAGE // 2, "longest_edge": IMAGE}, do_image_splitting=False
    )
    processor = transformers.Idefics2Processor(
        images, tokenizer, image_seq_len=8, chat_template=tokenizer.chat_template
    )
    return transformers.Idefics2ForConditionalGeneration(config), processor
