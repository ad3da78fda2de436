"""The Qwen-VL family, and a text-only Qwen2."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from .templates import chatml
from .text import LINEAR, SIZES, family_tokenizer, rope, vocabulary

VISION_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _tokenizer(**template: bool) -> PreTrainedTokenizerFast:
    return family_tokenizer(
        "byte_level",
        chatml(VISION_MARK, **template),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>", *VISION_TOKENS),
        older_class="Qwen2TokenizerFast",
    )


def _text(tokenizer: Any, **sections: Any) -> dict[str, Any]:
    return {
        **SIZES,
        "vocab_size": vocabulary(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **rope(**sections),
    }


def _ids(tokenizer: Any) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(list(VISION_TOKENS)), strict=True))


def _pixels(patch: int) -> dict[str, int]:
    """From 4 to 16 merged patches of an image: a merged patch is 2 x 2 patches."""
    return {"min_pixels": 4 * (2 * patch) ** 2, "max_pixels": 16 * (2 * patch) ** 2}


def qwen2_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    config = Qwen2VLConfig(
        text_config=_text(tokenizer, mrope_section=[2, 3, 3]),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 64,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 14,
        },
        **_ids(tokenizer),
    )
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**_pixels(14)),
        tokenizer,
        Qwen2VLVideoProcessor(**_pixels(14)),
        chat_template=tokenizer.chat_template,
    )
    return Qwen2VLForConditionalGeneration(config), processor


def qwen2_5_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, mrope_section=[2, 3, 3]),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **_ids(tokenizer),
    )
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**_pixels(14)),
        tokenizer,
        Qwen2VLVideoProcessor(**_pixels(14)),
        chat_template=tokenizer.chat_template,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    config = Qwen3VLConfig(**_qwen3(tokenizer))
    return Qwen3VLForConditionalGeneration(config), _qwen3_processor(tokenizer)


def qwen3_vl_moe() -> tuple[Any, Any]:
    """A mixture of four experts, of which two see a token."""
    tokenizer = _tokenizer()
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = Qwen3VLMoeConfig(**_qwen3(tokenizer, **experts))
    return Qwen3VLMoeForConditionalGeneration(config), _qwen3_processor(tokenizer)


def _qwen3(tokenizer: Any, **text: int) -> dict[str, Any]:
    return {
        "text_config": {**_text(tokenizer, mrope_section=[2, 3, 3]), "head_dim": 16, **text},
        "vision_config": {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        **_ids(tokenizer),
    }


def _qwen3_processor(tokenizer: Any) -> Qwen3VLProcessor:
    return Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, **_pixels(16)),
        tokenizer,
        Qwen3VLVideoProcessor(patch_size=16, **_pixels(16)),
        chat_template=tokenizer.chat_template,
    )


def qwen3_5() -> tuple[Any, Any]:
    """Linear attention in every other layer."""
    return _qwen3_5("Qwen3_5")


def qwen3_5_moe() -> tuple[Any, Any]:
    return _qwen3_5(
        "Qwen3_5Moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )  # fmt: skip


def _qwen3_5(kind: str, **experts: int) -> tuple[Any, Any]:
    tokenizer = _tokenizer()
    sections = {"mrope_section": [2, 3, 3], "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    linear = {**LINEAR, "partial_rotary_factor": 1.0}
    settings = _qwen3(tokenizer)
    settings["text_config"] = {**_text(tokenizer, **sections), **linear, **experts}
    del settings["vision_config"]["deepstack_visual_indexes"]
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForConditionalGeneration")(config)
    return model, _qwen3_processor(tokenizer)


def text() -> tuple[Any, Any]:
    """A text-only Qwen2 with its tokenizer."""
    tokenizer = _tokenizer()
    return Qwen2ForCausalLM(Qwen2Config(**_text(tokenizer))), tokenizer
