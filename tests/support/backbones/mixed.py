"""One model each of LFM2-VL, Ovis 2, PaddleOCR-VL, MiniCPM-V 4.6, Kimi K2.5, HunyuanVL and ERNIE 4.5 VL."""

from __future__ import annotations

from typing import Any

import transformers

from .templates import chatml, plain_turns
from .text import LINEAR, SIZES, TRANSFORMERS_4, family_tokenizer, rope, special_ids, vocabulary


def _chatml(image: str, named: dict[str, str] | None = None, *special: str) -> Any:
    return family_tokenizer(
        "byte_level",
        chatml(image),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        special=("<|im_start|>", *special),
        named=named,
    )


def _turns(image: str, named: dict[str, str], *special: str, before: str = "", eos: str = "</s>") -> Any:
    template = plain_turns(image, before=before, end=eos)
    return family_tokenizer(
        "byte_level", template, bos="<s>", eos=eos, pad="<pad>", special=special, named=named
    )


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {**SIZES, **special_ids(tokenizer), "vocab_size": vocabulary(tokenizer), **more}


def _first(*names: str) -> Any:
    """The class that this version of transformers has, under its newest name first."""
    return next(getattr(transformers, name) for name in names if hasattr(transformers, name))


def lfm2_vl() -> tuple[Any, Any]:
    """A convolution in every other layer, and patches packed without a grid of their own."""
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }
    if TRANSFORMERS_4:
        named["image_thumbnail"] = named["image_thumbnail_token"]
    tokenizer = family_tokenizer(
        "byte_level",
        "{{ '<|startoftext|>' }}" + chatml("<image>"),
        bos="<|startoftext|>",
        eos="<|im_end|>",
        pad="<|pad|>",
        special=("<|im_start|>",),
        named=named,
        prepend_bos=True,
    )
    text = transformers.Lfm2Config(
        **_text(tokenizer, layer_types=["conv", "full_attention"], conv_L_cache=3),
        block_auto_adjust_ff_dim=False,
    )
    vision = transformers.Siglip2VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
        num_patches=16, vision_use_head=False,
    )  # fmt: skip
    config = transformers.Lfm2VlConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        downsample_factor=2,
    )
    images = _first("Lfm2VlImageProcessorFast", "Lfm2VlImageProcessor")(
        min_image_tokens=4, max_image_tokens=8, tile_size=64, encoder_patch_size=16, do_image_splitting=False,
        size={"height": 64, "width": 64},
    )  # fmt: skip
    processor = transformers.Lfm2VlProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return transformers.Lfm2VlForConditionalGeneration(config), processor


def ovis2() -> tuple[Any, Any]:
    marks = ("<img>", "<pre>", "<col>", "<row>", "</img>")
    tokenizer = _chatml("<image>\n", {"image_token": "<image>"}, "<IMG_ATOM>", *marks)
    text = transformers.Qwen2Config(**_text(tokenizer))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "vocab_size": 64,
        "hidden_stride": 2,
        "num_visual_indicator_tokens": len(marks),
    }
    config = transformers.Ovis2Config(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(marks)),
        vocab_size=text.vocab_size,
        hidden_size=64,
        tie_word_embeddings=False,
    )
    images = transformers.Ovis2ImageProcessor(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=2
    )
    processor = transformers.Ovis2Processor(
        images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4
    )
    return transformers.Ovis2ForConditionalGeneration(config), processor


def paddleocr_vl() -> tuple[Any, Any]:
    tokenizer = _turns(
        "<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        {"image_token": "<|IMAGE_PLACEHOLDER|>"},
        "<|begin_of_sentence|>", "<|IMAGE_START|>", "<|IMAGE_END|>", "<|video_pad|>",
        before="<|begin_of_sentence|>",
    )  # fmt: skip
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.PaddleOCRVLConfig(
        text_config=_text(tokenizer, head_dim=16, **rope(mrope_section=[2, 3, 3])),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_id=ids("<|IMAGE_PLACEHOLDER|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|IMAGE_START|>"),
        vision_end_token_id=ids("<|IMAGE_END|>"),
    )
    images = transformers.PaddleOCRVLImageProcessor(
        size={"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    )
    processor = transformers.PaddleOCRVLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return transformers.PaddleOCRVLForConditionalGeneration(config), processor


def minicpm_v_4_6() -> tuple[Any, Any]:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer = _chatml("<|image_pad|>\n", named)
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.MiniCPMV4_6Config(
        text_config=transformers.Qwen3_5TextConfig(**_text(tokenizer, **LINEAR)),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
            "insert_layer_id": 1,
        },
        insert_layer_id=1,
        image_size=112,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
    )
    processor = transformers.MiniCPMV4_6Processor(
        transformers.MiniCPMV4_6ImageProcessor(scale_resolution=112, max_slice_nums=2, patch_size=14),
        transformers.MiniCPMV4_6VideoProcessor(),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return transformers.MiniCPMV4_6ForConditionalGeneration(config), processor


def kimi_k25() -> tuple[Any, Any]:
    """DeepSeek-V3's attention over a compressed key, and experts."""
    marks = ("<|media_begin|>", "<|media_content|>", "<|media_end|>")
    named = {"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"}
    image = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    tokenizer = _chatml(image, named, *marks)
    ids = tokenizer.convert_tokens_to_ids
    text = transformers.DeepseekV3Config(
        **_text(
            tokenizer, num_key_value_heads=4, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2,
            moe_intermediate_size=32, first_k_dense_replace=1, n_group=1, topk_group=1, q_lora_rank=16,
            kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=16,
        )
    )  # fmt: skip
    vision = {
        "patch_size": 14,
        "pos_emb_height": 8,
        "pos_emb_width": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
    }
    config = transformers.Kimi_K25Config(
        text_config=text,
        vision_config=vision,
        projection_hidden_size=32,
        image_token_id=ids("<|media_pad|>"),
        video_token_id=ids("<|kimi_k25_video_placeholder|>"),
        vision_start_token_id=ids("<|media_begin|>"),
        vision_end_token_id=ids("<|media_end|>"),
        tie_word_embeddings=False,
    )
    processor = transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(max_patches=64),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=tokenizer.chat_template,
    )
    return transformers.Kimi_K25ForConditionalGeneration(config), processor


def hunyuan_vl() -> tuple[Any, Any]:
    named = {"image_token": "<img_tok>", "image_start_token": "<img_start>", "image_end_token": "<img_end>"}
    tokenizer = _turns("<img_start><img_tok><img_end>", named, "<img_nl>")
    ids = tokenizer.convert_tokens_to_ids
    positions = {
        "rope_type": "xdrope", "rope_theta": 10000.0, "xdrope_section": [2, 2, 2, 2], "alpha": 1.0,
        "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    }  # fmt: skip
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "out_hidden_size": 64,
        "patch_size": 16,
        "text_hidden_size": 64,
        "max_image_size": 128,
        "min_image_size": 32,
        "img_max_token_num": 64,
    }
    config = transformers.HunYuanVLConfig(
        text_config=_text(tokenizer, head_dim=16, rope_parameters=positions),
        vision_config=vision,
        image_token_id=ids("<img_tok>"),
        im_start_id=ids("<img_start>"),
        im_end_id=ids("<img_end>"),
        im_newline_id=ids("<img_nl>"),
        tie_word_embeddings=False,
    )
    images = transformers.HunYuanVLImageProcessor(
        size={"shortest_edge": 4 * 32 * 32, "longest_edge": 16 * 32 * 32}
    )
    processor = transformers.HunYuanVLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    return transformers.HunYuanVLForConditionalGeneration(config), processor


def ernie4_5_vl_moe() -> tuple[Any, Any]:
    named = {
        "image_token": "<|IMAGE_PLACEHOLDER|>",
        "image_end_token": "<|IMAGE_END|>",
        "image_start_token": "<|IMAGE_START|>",
        "video_token": "<|VIDEO_PLACEHOLDER|>",
        "video_end_token": "<|VIDEO_END|>",
        "video_start_token": "<|VIDEO_START|>",
    }
    tokenizer = _turns(
        "Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>",
        named,
        "<|begin_of_sentence|>", "<|end_of_sentence|>",
        before="<|begin_of_sentence|>",
        eos="<|end_of_sentence|>",
    )  # fmt: skip
    ids = tokenizer.convert_tokens_to_ids
    text = _text(
        tokenizer, moe_intermediate_size=[32, 32], moe_k=2, moe_num_experts=4, moe_num_shared_experts=1,
        mlp_layer_types=["dense", "sparse"], **rope(mrope_section=[3, 3, 2]),
    )  # fmt: skip
    config = transformers.Ernie4_5_VLMoeConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "patch_size": 14,
            "intermediate_size": 64,
        },
        image_token_id=ids("<|IMAGE_PLACEHOLDER|>"),
        image_start_token_id=ids("<|IMAGE_START|>"),
        image_end_token_id=ids("<|IMAGE_END|>"),
        video_token_id=ids("<|VIDEO_PLACEHOLDER|>"),
        video_start_token_id=ids("<|VIDEO_START|>"),
        video_end_token_id=ids("<|VIDEO_END|>"),
    )
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = transformers.Ernie4_5_VLMoeProcessor(
        _first("Ernie4_5_VLMoeImageProcessorFast", "Ernie4_5_VLMoeImageProcessor")(size=size),
        tokenizer,
        transformers.Ernie4_5_VLMoeVideoProcessor(size=size, draw_on_frames=False),
        chat_template=tokenizer.chat_template,
    )
    return transformers.Ernie4_5_VLMoeForConditionalGeneration(config), processor
