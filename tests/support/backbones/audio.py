"""What hears: Qwen2-Audio, and Qwen2.5-Omni, which sees as well. Sounds of up to two seconds."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import WhisperFeatureExtractor

from .templates import chatml
from .text import SIZES, family_tokenizer, rope, vocabulary

MARKS = ("<|im_start|>", "<|vision_bos|>", "<|vision_eos|>", "<|audio_bos|>", "<|audio_eos|>")
NAMED = {
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
SECONDS, MELS = 2, 16
ENCODER = {
    "num_mel_bins": MELS,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "max_source_positions": SECONDS * 50,
}


def _tokenizer() -> Any:
    return family_tokenizer(
        "byte_level",
        chatml("<|audio_bos|><|AUDIO|><|audio_eos|>"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=MARKS,
        named=NAMED,
        older_class="Qwen2TokenizerFast",
    )


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**SIZES, **ids, "bos_token_id": None, "vocab_size": vocabulary(tokenizer), **more}


def _ears() -> Any:
    return WhisperFeatureExtractor(feature_size=MELS, chunk_length=SECONDS)


def qwen2_audio() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    config = transformers.Qwen2AudioConfig(
        audio_config=dict(ENCODER),
        text_config=_text(tokenizer),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    processor = transformers.Qwen2AudioProcessor(_ears(), tokenizer, chat_template=tokenizer.chat_template)
    return transformers.Qwen2AudioForConditionalGeneration(config), processor


def qwen2_5_omni() -> tuple[Any, Any]:
    """Without the part that speaks."""
    tokenizer = _tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    thinker = {
        "audio_config": {**ENCODER, "n_window": 20, "output_dim": 64},
        "vision_config": {
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
            "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1],
        },
        "text_config": _text(tokenizer, **rope(mrope_section=[2, 3, 3]), tie_word_embeddings=False),
        "audio_token_index": ids("<|AUDIO|>"),
        "image_token_index": ids("<|IMAGE|>"),
        "video_token_index": ids("<|VIDEO|>"),
        "audio_start_token_id": ids("<|audio_bos|>"),
        "audio_end_token_id": ids("<|audio_eos|>"),
        "vision_start_token_id": ids("<|vision_bos|>"),
        "vision_end_token_id": ids("<|vision_eos|>"),
    }  # fmt: skip
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
    pixels = {"min_pixels": 4 * 28**2, "max_pixels": 16 * 28**2}
    processor = transformers.Qwen2_5OmniProcessor(
        transformers.Qwen2VLImageProcessor(**pixels),
        transformers.Qwen2VLVideoProcessor(**pixels),
        _ears(),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return transformers.Qwen2_5OmniForConditionalGeneration(config), processor
