"""Tiny random dual encoders of each supported family, and pictures to score."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support import backbones
from tests.support.backbones.dual import ENCODER, IMAGE, VISION
from tests.support.backbones.text import family_tokenizer, vocabulary

FAMILIES = ("clip", "siglip", "siglip2", "chinese_clip", "altclip", "vision_text")


def siglip2() -> tuple[Any, Any]:
    """The NaFlex form: images as patches of any aspect ratio, with a mask."""
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor

    tokenizer = family_tokenizer("byte_fallback", "", bos=None, eos="</s>", pad="<pad>", append_eos=True)
    tokenizer.model_max_length = 64
    config = Siglip2Config(
        text_config={
            **ENCODER,
            "vocab_size": vocabulary(tokenizer),
            "max_position_embeddings": 64,
            "projection_size": 32,
        },
        vision_config={**ENCODER, "num_patches": 16, "patch_size": 8},
    )
    images = Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    return Siglip2Model(config), Siglip2Processor(images, tokenizer)


def chinese_clip() -> tuple[Any, Any]:
    from transformers import (
        ChineseCLIPConfig,
        ChineseCLIPImageProcessor,
        ChineseCLIPModel,
        ChineseCLIPProcessor,
    )

    tokenizer = family_tokenizer(
        "unigram", "", bos="[CLS]", eos="[SEP]", pad="[PAD]", prepend_bos=True, append_eos=True
    )
    tokenizer.model_max_length = 512
    config = ChineseCLIPConfig(
        text_config={**ENCODER, "vocab_size": vocabulary(tokenizer), "max_position_embeddings": 512},
        vision_config=VISION,
        projection_dim=24,
    )
    images = ChineseCLIPImageProcessor(
        size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE}
    )
    return ChineseCLIPModel(config), ChineseCLIPProcessor(images, tokenizer)


def altclip() -> tuple[Any, Any]:
    from transformers import AltCLIPConfig, AltCLIPModel, AltCLIPProcessor, CLIPImageProcessor

    tokenizer = family_tokenizer(
        "unigram", "", bos="<s>", eos="</s>", pad="<pad>", prepend_bos=True, append_eos=True
    )
    config = AltCLIPConfig(
        text_config={
            **ENCODER,
            "vocab_size": vocabulary(tokenizer),
            "max_position_embeddings": 514,
            "project_dim": 24,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**VISION, "projection_dim": 24},
        projection_dim=24,
    )
    images = CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size={"height": IMAGE, "width": IMAGE})
    return AltCLIPModel(config), AltCLIPProcessor(images, tokenizer)


def vision_text() -> tuple[Any, Any]:
    """Any pair of towers joined by `VisionTextDualEncoderModel`: here BERT, whose texts have token types."""
    from transformers import (
        BertConfig,
        BertModel,
        VisionTextDualEncoderModel,
        VisionTextDualEncoderProcessor,
        ViTConfig,
        ViTImageProcessor,
        ViTModel,
    )

    tokenizer = family_tokenizer(
        "unigram", "", bos="[CLS]", eos="[SEP]", pad="[PAD]", prepend_bos=True, append_eos=True
    )
    tokenizer.model_max_length = 64
    text = BertModel(BertConfig(**ENCODER, vocab_size=vocabulary(tokenizer), max_position_embeddings=48))
    model = VisionTextDualEncoderModel(vision_model=ViTModel(ViTConfig(**VISION)), text_model=text)
    images = ViTImageProcessor(size={"height": IMAGE, "width": IMAGE})
    return model, VisionTextDualEncoderProcessor(images, tokenizer)


_OURS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "siglip2": siglip2,
    "chinese_clip": chinese_clip,
    "altclip": altclip,
    "vision_text": vision_text,
}


def build(name: str, folder: Path) -> Path:
    """Write the tiny encoder of a family to `folder`, its vectors spread so that cosines differ visibly."""
    import torch

    if name not in _OURS:
        return backbones.build(name, folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _OURS[name]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def picture(seed: int, size: tuple[int, int] = (48, 40), kind: str = "PNG") -> bytes:
    """An encoded picture of a few coloured patches."""
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(stream, kind)
    return stream.getvalue()
