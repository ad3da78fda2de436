"""Llama 3.2 Vision: images enter through cross-attention layers."""

from __future__ import annotations

from typing import Any

from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor, MllamaProcessor
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from .llava import IMAGE, PATCH
from .templates import llama3
from .text import SIZES, family_tokenizer, rope, vocabulary

TILES = 2


def mllama() -> tuple[Any, Any]:
    tokenizer = family_tokenizer(
        "byte_level",
        llama3(),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|finetune_right_pad_id|>",
        special=(
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|end_of_text|>",
            "<|python_tag|>",
            "<|image|>",
        ),
    )
    rows = vocabulary(tokenizer)
    config = MllamaConfig(
        vision_config=MllamaVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_global_layers=1,
            attention_heads=2,
            vision_output_dim=64,  # final states beside one intermediate layer
            intermediate_layers_indices=[0],
            image_size=IMAGE,
            patch_size=PATCH,
            max_num_tiles=TILES,
            supported_aspect_ratios=[[1, 1], [1, 2], [2, 1]],
        ),
        text_config=MllamaTextConfig(
            vocab_size=rows,
            cross_attention_layers=[1],
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **rope(),
            **SIZES,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": IMAGE, "width": IMAGE}, max_image_tiles=TILES),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    model = MllamaForConditionalGeneration(config)
    _open_gates(model)
    return model, processor


def _open_gates(model: Any) -> None:
    """Gates start at zero, which would hide the image from a random model."""
    import torch

    for name, parameter in model.named_parameters():
        if name.endswith(("gate", "attn_gate", "mlp_gate")):
            torch.nn.init.constant_(parameter, 0.5)
