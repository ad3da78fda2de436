"""Tiny random-weight models of real architectures, built offline with the real classes.

`build("llava", folder)` writes config, weights, processor, tokenizer and chat template in the layout that
`from_pretrained` reads. About 100 thousand parameters each; the same name always gives the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import (
    audio,
    blip,
    cohere,
    deepseek,
    dual,
    gemma,
    glm,
    idefics,
    intern,
    llava,
    mixed,
    mllama,
    pixtral,
    qwen,
    recent,
)
from .text import TRANSFORMERS_4

# Name -> a function giving (model, processor or tokenizer).
BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava": llava.llava,
    "llava_next": llava.llava_next,
    "llava_onevision": llava.llava_onevision,
    "qwen2_vl": qwen.qwen2_vl,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "qwen3_vl_moe": qwen.qwen3_vl_moe,
    "internvl": intern.internvl,
    "gemma3": gemma.gemma3,
    "paligemma": gemma.paligemma,
    "idefics3": idefics.idefics3,
    "smolvlm": idefics.smolvlm,
    "mllama": mllama.mllama,
    "instructblip": blip.instructblip,
    "pixtral": pixtral.pixtral,
    "text": qwen.text,
    "clip": dual.clip,
    "siglip": dual.siglip,
}
# Of today, where this version of transformers has the class: name -> (the model's class, its builder).
TODAY: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
    "qwen3_5": ("Qwen3_5ForConditionalGeneration", qwen.qwen3_5),
    "qwen3_5_moe": ("Qwen3_5MoeForConditionalGeneration", qwen.qwen3_5_moe),
    "glm4v": ("Glm4vForConditionalGeneration", glm.glm4v),
    "glm4v_moe": ("Glm4vMoeForConditionalGeneration", glm.glm4v_moe),
    "glm_ocr": ("GlmOcrForConditionalGeneration", glm.glm_ocr),
    "gemma4": ("Gemma4ForConditionalGeneration", gemma.gemma4),
    "gemma4_small": ("Gemma4ForConditionalGeneration", gemma.gemma4_small),
    "mistral3": ("Mistral3ForConditionalGeneration", pixtral.mistral3),
    "ministral3": ("Ministral3ForCausalLM", pixtral.ministral3),
    "minicpm_v_4_6": ("MiniCPMV4_6ForConditionalGeneration", mixed.minicpm_v_4_6),
    "kimi_k25": ("Kimi_K25ForConditionalGeneration", mixed.kimi_k25),
    "deepseek_vl": ("DeepseekVLForConditionalGeneration", deepseek.deepseek_vl),
    "deepseek_vl_hybrid": ("DeepseekVLHybridForConditionalGeneration", deepseek.deepseek_vl_hybrid),
    "lfm2_vl": ("Lfm2VlForConditionalGeneration", mixed.lfm2_vl),
    "ovis2": ("Ovis2ForConditionalGeneration", mixed.ovis2),
    "idefics2": ("Idefics2ForConditionalGeneration", idefics.idefics2),
    "aya_vision": ("AyaVisionForConditionalGeneration", cohere.aya_vision),
    "llava_next_video": ("LlavaNextVideoForConditionalGeneration", llava.llava_next_video),
    "llava_next_mistral": ("LlavaNextForConditionalGeneration", llava.llava_next_mistral),
    "granite_vision": ("LlavaNextForConditionalGeneration", llava.granite_vision),
    "paddleocr_vl": ("PaddleOCRVLForConditionalGeneration", mixed.paddleocr_vl),
    "hunyuan_vl": ("HunYuanVLForConditionalGeneration", mixed.hunyuan_vl),
    "glm46v": ("Glm46VForConditionalGeneration", glm.glm46v),
    "cohere2_vision": ("Cohere2VisionForConditionalGeneration", cohere.cohere2_vision),
    "llama4": ("Llama4ForConditionalGeneration", recent.llama4),
    "video_llama_3": ("VideoLlama3ForConditionalGeneration", recent.video_llama_3),
    "lighton_ocr": ("LightOnOcrForConditionalGeneration", recent.lighton_ocr),
    "aria": ("AriaForConditionalGeneration", recent.aria),
    "molmo2": ("Molmo2ForConditionalGeneration", recent.molmo2),
    "ernie4_5_vl_moe": ("Ernie4_5_VLMoeForConditionalGeneration", mixed.ernie4_5_vl_moe),
}
# Of today too, and minutes each: no suite builds them, `python -m tests.trl.table NAME` does.
SLOW: dict[str, Callable[[], tuple[Any, Any]]] = {"deepseek_ocr2": deepseek.deepseek_ocr2}
# Those of them that share a prefix; the others carry a state along a row, or need inputs that are not made.
SHARES = tuple(
    "glm4v glm4v_moe glm_ocr mistral3 ministral3 deepseek_vl deepseek_vl_hybrid idefics2 "
    "aya_vision llava_next_video llava_next_mistral granite_vision paddleocr_vl glm46v cohere2_vision "
    "video_llama_3 lighton_ocr".split()
)
# Not listed, and found by a trial to share (tests/core/test_trial.py).
TRIED = ("gemma4_small", "kimi_k25", "ovis2", "aria")
# What hears; LLaMA-Factory trains them, TRL's DPO takes no sounds.
HEARS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_audio": audio.qwen2_audio,
    "qwen2_5_omni": audio.qwen2_5_omni,
}
DUAL_ENCODERS = ("clip", "siglip")


def runs_here(name: str) -> bool:
    """Whether the installed Transformers can run the model: see `refuse_broken`."""
    if name != "smolvlm":
        return True
    from aspo_plugin.training.model_needs import refuse_broken

    try:
        refuse_broken(idefics.smolvlm_config())
    except ValueError:
        return False
    return True


VISION_LANGUAGE = tuple(name for name in BUILDERS if name not in (*DUAL_ENCODERS, "text") and runs_here(name))


def today() -> list[str]:
    """Those of `TODAY` that this version of transformers has."""
    import transformers

    return [name for name, (kind, _) in TODAY.items() if hasattr(transformers, kind)]


def build(name: str, folder: Path | str, dtype: Any = None) -> Path:
    """Write the model `name` (one of `BUILDERS`, `HEARS` or `TODAY`) to `folder` and return it; seeded,
    float32 or `dtype`."""
    import torch

    folder = Path(folder)
    if (folder / "config.json").exists():
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        builders = {**BUILDERS, **HEARS, **SLOW}
        model, processor = (builders[name] if name in builders else TODAY[name][1])()
    if dtype is not None:
        model.to(dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name == "qwen2_5_omni":
        torch.save({}, folder / "spk_dict.pt")  # voices, which its loader wants
        if TRANSFORMERS_4:  # images and sounds share a file there, and the last one written is left
            path = folder / "preprocessor_config.json"
            both = {**processor.image_processor.to_dict(), **json.loads(path.read_text())}
            path.write_text(json.dumps(both))
    return folder
