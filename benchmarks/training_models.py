"""Random-weight models for the training benchmark: 7B shapes, or small ones of the same proportions.

The small shapes keep depth times width against vocabulary (so the share of the logits in time), MLP against
attention, vision tower against language model, image tokens and image size. They are wide and shallow, so
that attention does not outweigh the matrix products as it does in narrow models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

VOCABULARY = {"llava": 32064, "qwen2_5_vl": 152064}
# Depth times width of the 7B language models, which a vocabulary is measured against.
_FULL = {"llava": 32 * 4096, "qwen2_5_vl": 28 * 3584}
_SHAPES = {
    "7B": {"llava": (32, 4096), "qwen2_5_vl": (28, 3584)},
    "small": {"llava": (2, 512), "qwen2_5_vl": (2, 512)},
    "tiny": {"llava": (2, 64), "qwen2_5_vl": (2, 128)},  # to try a benchmark, not to measure with
}


@dataclass(frozen=True)
class Setting:
    """One line of the benchmark. `prompt`: tokens with the image's; `vocabulary`: at 7B shapes."""

    model: str
    prompt: int
    response: int
    pairs: int
    vocabulary: int

    def __str__(self) -> str:
        return (
            f"{self.model} P={self.prompt} R={self.response} pairs={self.pairs} V={self.vocabulary // 1000}k"
        )


def build(setting: Setting, shape: str, dtype: torch.dtype, device: str) -> Any:
    """The model of a setting with LoRA on its language model (attention and MLP), as recipes train it."""
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    real = shape == "7B"
    depth, width = _SHAPES[shape][setting.model]
    vocabulary = round(setting.vocabulary * depth * width / _FULL[setting.model])
    if setting.model == "llava":
        config: Any = transformers.LlavaConfig(
            text_config={
                "model_type": "llama",
                "num_hidden_layers": depth,
                "hidden_size": width,
                "intermediate_size": 11008 if real else round(11008 / 4096 * width),
                "num_attention_heads": 32 if real else 4,
                "num_key_value_heads": 32 if real else 4,
                "vocab_size": vocabulary,
                "max_position_embeddings": 4096,
            },
            vision_config={
                "model_type": "clip_vision_model",
                "image_size": 84 if shape == "tiny" else 336,
                "patch_size": 14,
                "hidden_size": 1024 if real else 64,
                "intermediate_size": 4096 if real else 256,
                "num_hidden_layers": 24 if real else 6,
                "num_attention_heads": 16 if real else 2,
            },
            image_token_index=vocabulary - 1,
        )
        kind = transformers.LlavaForConditionalGeneration
    else:
        config = transformers.Qwen2_5_VLConfig(
            text_config={
                "num_hidden_layers": depth,
                "hidden_size": width,
                "intermediate_size": 18944 if real else round(18944 / 3584 * width),
                "num_attention_heads": 28 if real else 8,
                "num_key_value_heads": 4 if real else 1,
                "vocab_size": vocabulary,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [16, 24, 24]
                    if real
                    else [width // 64, 3 * width // 128, 3 * width // 128],
                },
            },
            vision_config={
                "depth": 32 if real else 12,
                "hidden_size": 1280 if real else 64,
                "intermediate_size": 3420 if real else 171,
                "num_heads": 16 if real else 4,
                "out_hidden_size": width,
                "fullatt_block_indexes": [7, 15, 23, 31] if real else [2, 5, 8, 11],
            },
            image_token_id=vocabulary - 1,
            video_token_id=vocabulary - 2,
            vision_start_token_id=vocabulary - 3,
            vision_end_token_id=vocabulary - 4,
        )
        kind = transformers.Qwen2_5_VLForConditionalGeneration
    with torch.device(device), _default(dtype):
        model = kind(config)
    model.config.use_cache = False
    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    return get_peft_model(model, LoraConfig(r=8, target_modules=targets))


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def batch(model: Any, setting: Setting, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """What LLaMA-Factory's collator gives for pairs of this setting, with random content: 2B rows."""
    random = torch.Generator().manual_seed(0)
    config, pairs = model.config, setting.pairs
    vocabulary = config.get_text_config().vocab_size
    lengths = torch.linspace(0.8, 1.2, 2 * pairs).mul(setting.response).long()
    lengths = lengths[torch.randperm(2 * pairs, generator=random)]
    width = setting.prompt + int(lengths.max())
    ids = torch.randint(5, vocabulary - 5, (2 * pairs, width), generator=random)
    columns = torch.arange(width)
    seen = (columns < setting.prompt + lengths[:, None]).long()
    images: dict[str, Any] = {}
    if setting.model == "llava":
        vision = config.vision_config
        size, per_image = vision.image_size, (vision.image_size // vision.patch_size) ** 2
        count = max(1, setting.prompt // (per_image + 64))
        images["pixel_values"] = torch.randn(pairs * count, 3, size, size, generator=random).to(dtype)
    else:
        side = 4 if setting.prompt < 200 else 20 if setting.prompt < 600 else 30
        per_image, count = side * side, 1
        grid = torch.tensor([[1, 2 * side, 2 * side]] * pairs)
        patches = pairs * 4 * per_image
        images["pixel_values"] = torch.randn(patches, 3 * 2 * 14 * 14, generator=random).to(dtype)
        images["image_grid_thw"] = grid
    ids[:, 8 : 8 + per_image * count] = vocabulary - 1
    ids[pairs:, : setting.prompt] = ids[:pairs, : setting.prompt]
    ids[seen == 0] = 0
    images = {key: torch.cat([value, value]) for key, value in images.items()}
    labels = torch.where((columns >= setting.prompt) & (seen == 1), ids, -100)
    made: dict[str, Any] = {"input_ids": ids, "attention_mask": seen, "labels": labels, **images}
    if setting.model != "llava":
        types = (ids == vocabulary - 1).int()
        positions, _ = model.get_base_model().model.get_rope_index(
            ids, types, image_grid_thw=images["image_grid_thw"], attention_mask=seen
        )
        made |= {"mm_token_type_ids": types, "position_ids": positions}
    return {key: value.to(device) for key, value in made.items()}
