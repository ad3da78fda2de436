"""Shapes of the recipes' models, as their public config.json give them; nothing has to be downloaded.

Only what decides sizes is here. For another model, give `aspo-plan --config FOLDER` its config.json.
"""

from __future__ import annotations

from typing import Any

_CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "vision_use_head": False,
}


def _text(
    kind: str, hidden: int, inner: int, layers: int, heads: int, kv: int, rows: int, **more: Any
) -> Any:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": rows,
        **more,
    }


def _vicuna(size: int, rows: int) -> Any:
    if size == 7:
        return _text("llama", 4096, 11008, 32, 32, 32, rows)
    return _text("llama", 5120, 13824, 40, 40, 40, rows)


def _qwen2_5_vl(hidden: int, inner: int, layers: int, heads: int, kv: int, rows: int, tied: bool) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]}
    return {
        "text_config": _text("qwen2_5_vl_text", hidden, inner, layers, heads, kv, rows, rope_parameters=rope),
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": hidden,
            "patch_size": 14,
        },
        "tie_word_embeddings": tied,
    }


def _qwen3_vision(hidden: int, deepstack: bool = True) -> Any:
    return {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": hidden,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        **({"deepstack_visual_indexes": [8, 16, 24]} if deepstack else {}),
    }


def _pixtral(image: int, patch: int) -> Any:
    return {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": image,
        "patch_size": patch,
    }


def _gemma3(hidden: int, inner: int, layers: int, heads: int, kv: int) -> Any:
    text = _text("gemma3_text", hidden, inner, layers, heads, kv, 262208, head_dim=256, sliding_window=1024)
    return {"text_config": text, "vision_config": {**_SIGLIP, "image_size": 896}}


# Hub name -> (model type, config values).
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava-hf/llava-1.5-7b-hf": ("llava", {"text_config": _vicuna(7, 32064), "vision_config": _CLIP}),
    "llava-hf/llava-1.5-13b-hf": ("llava", {"text_config": _vicuna(13, 32064), "vision_config": _CLIP}),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (
        "llava_next",
        {"text_config": _vicuna(7, 32064), "vision_config": _CLIP},
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (
        "llava_onevision",
        {
            "text_config": _text("qwen2", 3584, 18944, 28, 28, 4, 152000),
            "vision_config": {**_SIGLIP, "image_size": 384, "num_hidden_layers": 26},
        },
    ),
    "Salesforce/instructblip-vicuna-13b": (
        "instructblip",
        {
            "text_config": _vicuna(13, 32001),
            "vision_config": {"image_size": 224},
            "qformer_config": {"vocab_size": 30523},
            "num_query_tokens": 32,
        },
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": ("qwen2_5_vl", _qwen2_5_vl(2048, 11008, 36, 16, 2, 151936, True)),
    "Qwen/Qwen2.5-VL-7B-Instruct": ("qwen2_5_vl", _qwen2_5_vl(3584, 18944, 28, 28, 4, 152064, False)),
    "Qwen/Qwen3-VL-8B-Instruct": (
        "qwen3_vl",
        {
            "text_config": _text("qwen3_vl_text", 4096, 12288, 36, 32, 8, 151936, head_dim=128),
            "vision_config": _qwen3_vision(4096),
            "tie_word_embeddings": False,
        },
    ),
    # Eight of 128 experts of width 768 see a token: together as wide as `intermediate_size`.
    "Qwen/Qwen3-VL-30B-A3B-Instruct": (
        "qwen3_vl_moe",
        {
            "text_config": _text(
                "qwen3_vl_moe_text",
                2048,
                6144,
                48,
                32,
                4,
                151936,
                head_dim=128,
                num_experts=128,
                num_experts_per_tok=8,
                moe_intermediate_size=768,
            ),
            "vision_config": _qwen3_vision(2048),
            "tie_word_embeddings": False,
        },
    ),
    # Three layers of linear attention, then one of the usual.
    "Qwen/Qwen3.5-9B": (
        "qwen3_5",
        {
            "text_config": _text(
                "qwen3_5_text",
                4096,
                12288,
                32,
                16,
                4,
                248320,
                head_dim=256,
                linear_num_key_heads=16,
                linear_num_value_heads=32,
                linear_key_head_dim=128,
                linear_value_head_dim=128,
            ),
            "vision_config": _qwen3_vision(4096, deepstack=False),
            "tie_word_embeddings": False,
        },
    ),
    # Qwen3.5-0.8B behind a tower that merges windows of its patches.
    "openbmb/MiniCPM-V-4.6": (
        "minicpmv4_6",
        {
            "text_config": _text(
                "qwen3_5_text",
                1024,
                3584,
                24,
                8,
                2,
                248320,
                head_dim=256,
                linear_num_key_heads=16,
                linear_num_value_heads=16,
                linear_key_head_dim=128,
                linear_value_head_dim=128,
                tie_word_embeddings=True,
            ),
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 980,
            },
            "image_size": 1120,
            "tie_word_embeddings": True,
        },
    ),
    "OpenGVLab/InternVL3-8B-hf": (
        "internvl",
        {
            "text_config": _text("qwen2", 3584, 18944, 28, 28, 4, 151674),
            "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "attention_bias": True},
            "tie_word_embeddings": False,
        },
    ),
    "OpenGVLab/InternVL3_5-8B-HF": (
        "internvl",
        {
            "text_config": _text("qwen3", 4096, 12288, 36, 32, 8, 151936, head_dim=128),
            "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "attention_bias": True},
            "tie_word_embeddings": False,
        },
    ),
    "zai-org/GLM-4.1V-9B-Thinking": (
        "glm4v",
        {
            "text_config": _text("glm4v_text", 4096, 13696, 40, 32, 2, 151552),
            "vision_config": {
                "depth": 24,
                "hidden_size": 1536,
                "intermediate_size": 13696,
                "num_heads": 12,
                "out_hidden_size": 4096,
                "patch_size": 14,
            },
            "tie_word_embeddings": False,
        },
    ),
    "google/gemma-3-4b-it": ("gemma3", _gemma3(2560, 10240, 34, 8, 4)),
    # Every layer has embeddings of its own; the last 18 take keys and values from layers before.
    "google/gemma-4-E4B-it": (
        "gemma4",
        {
            "text_config": _text(
                "gemma4_text",
                2560,
                10240,
                42,
                8,
                2,
                262144,
                head_dim=256,
                num_kv_shared_layers=18,
                final_logit_softcapping=30.0,
            ),
            "vision_config": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16},
            "audio_config": {"hidden_size": 1024, "num_hidden_layers": 12},
        },
    ),
    "google/gemma-3-12b-it": ("gemma3", _gemma3(3840, 15360, 48, 16, 8)),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (
        "smolvlm",
        {
            "text_config": _text("llama", 2048, 8192, 24, 32, 32, 49280),
            "vision_config": {
                **{key: value for key, value in _SIGLIP.items() if key != "model_type"},
                "image_size": 384,
            },
            "scale_factor": 3,
        },
    ),
    "mistral-community/pixtral-12b": (
        "llava",
        {
            "text_config": _text("mistral", 5120, 14336, 40, 32, 8, 131072, head_dim=128),
            "vision_config": _pixtral(1024, 16),
        },
    ),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": (
        "mistral3",
        {
            "text_config": _text("mistral", 5120, 32768, 40, 32, 8, 131072, head_dim=128),
            "vision_config": _pixtral(1540, 14),
            "spatial_merge_size": 2,
            "tie_word_embeddings": False,
        },
    ),
}
