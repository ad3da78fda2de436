"""Where a shared prefix is proven equal to two ordinary rows, and how each model takes its mask.

"Proven" means a test of ours compares per-token log-probs and gradients in float32 for that class. What is
not listed may be tried: see `trial`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from aspo_plugin.logprobs.output_layer import unwrap

VISION_MODELS = frozenset(
    "llava llava_next llava_onevision qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe internvl gemma3 paligemma "
    "idefics2 idefics3 smolvlm mllama instructblip glm4v glm4v_moe glm_ocr mistral3 llava_next_video "
    "deepseek_vl deepseek_vl_hybrid paddleocr_vl aya_vision glm46v cohere2_vision video_llama_3 "
    "lighton_ocr".split()
)
TEXT_MODELS = frozenset(
    "llama mistral qwen2 qwen3 qwen2_vl_text qwen2_5_vl_text qwen3_vl_text qwen3_vl_moe_text gemma gemma2 "
    "gemma3_text mllama_text_model glm4v_text glm4v_moe_text glm_ocr_text ministral3 granite "
    "paddleocr_vl_text cohere2".split()
)
# These models pick a mask per layer from a dict and lose the window if they are given one tensor.
MASK_PER_LAYER = frozenset("qwen2 qwen3 qwen2_vl_text qwen2_5_vl_text gemma2 gemma3_text cohere2".split())
LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Architecture:
    """What building a mask needs to know.

    `window`: width of sliding attention in positions, or None. `layers`: the kinds of layers present.
    `per_layer`: the model takes a dict of masks by kind of layer; without it one mask serves all layers.
    `attention`: its name in `transformers`. `additive`: a float mask is wanted. `compiled`: `torch.compile`
    runs (a part of) the model. `head_size`: width of one attention head, 0 where layers differ.
    `two_way`: tokens that see each other both ways, "" or "image" (runs of token_type_ids 1) or
    "prompt" (token_type_ids 0). `first_position`: of a row, where the model counts by itself.
    `counts_images`: positions follow the grids of the images (multimodal rotary embedding).
    """

    window: int | None = None
    layers: frozenset[str] = frozenset({"full_attention"})
    per_layer: bool = False
    attention: str = "sdpa"
    additive: bool = False
    compiled: bool = False
    head_size: int = 0
    two_way: str = ""
    first_position: int = 0
    counts_images: bool = False


@dataclass(frozen=True)
class Unlisted:
    """How a prefix might be shared in a model that is not among those proven equal; `name` of the model."""

    architecture: Architecture
    name: str

    @property
    def reason(self) -> str:
        return f"{self.name} is not among the architectures proven equal"


def describe(model: nn.Module) -> Architecture | Unlisted | str:
    """How to share a prefix in `model`, with its wrappers, or the reason why that is not done."""
    base: Any = unwrap(model)
    config = getattr(base, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        return "the model has no transformers config"
    text = config.get_text_config()
    kind, text_kind = config.model_type, text.model_type
    embeddings = base.get_input_embeddings() if hasattr(base, "get_input_embeddings") else None
    if getattr(embeddings, "neftune_noise_alpha", None) is not None:
        return "NEFTune scales the noise of a row by its length"
    if config.is_encoder_decoder:
        return f"{kind} is an encoder-decoder"
    layers = _layers(text)
    if not layers <= LAYERS:
        return f"layers of {text_kind} are {', '.join(sorted(layers - LAYERS))}, which cannot share a prefix"
    attention = getattr(text, "_attn_implementation", None)
    flash = "flash" in str(attention)
    if not (flash or attention in ("sdpa", "eager")):
        return f"attention '{attention}' takes no mask of its own; sdpa, eager and flash_attention_2 do"
    if flash and getattr(text, "attn_logit_softcapping", None):
        return f"'{attention}' caps the attention logits of {text_kind}, which the shared prefix does not"
    window = getattr(text, "sliding_window", None) if "sliding_attention" in layers else None
    if window and getattr(config, "mm_tokens_per_image", 0) > window:
        return f"an image of {kind} is longer than its attention window"
    unlisted = ""
    if text_kind not in TEXT_MODELS:
        unlisted = text_kind
    if text is not config and kind not in VISION_MODELS:
        unlisted = kind
    if unlisted and flash:
        return f"{unlisted} is not among the architectures proven equal, and '{attention}' cannot be tried"
    found = Architecture(
        window=window,
        layers=layers,
        per_layer=len(layers) > 1 if unlisted else text_kind in MASK_PER_LAYER and kind != "paligemma",
        attention=str(attention),
        additive=attention == "eager",
        compiled=_is_compiled(model),
        head_size=_head_size(text),
        two_way={"gemma3": "image", "paligemma": "prompt"}.get(kind, ""),
        first_position=1 if kind == "paligemma" else 0,
        counts_images=hasattr(getattr(base, "model", None), "get_rope_index"),
    )
    return Unlisted(found, unlisted) if unlisted else found


def _head_size(text: Any) -> int:
    """0 where it is not one: some configs raise an error of their own for what differs by layer."""
    try:
        return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    except Exception:
        return 0


def _layers(text: Any) -> frozenset[str]:
    layers = getattr(text, "layer_types", None)
    if layers:
        return frozenset(layers)
    for name in ("attention_chunk_size", "block_types", "layers_block_type", "attn_layer_indices"):
        if getattr(text, name, None):
            return frozenset({name})
    slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return frozenset({"sliding_attention" if slides else "full_attention"})


def _is_compiled(model: nn.Module) -> bool:
    for module in model.modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            return True
        if hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable"):
            return True
    return False
