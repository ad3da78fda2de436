"""Tiny random-weight models of real architectures, built offline with the real classes.

`build("llava", folder)` writes config, weights, processor, tokenizer and chat template in the layout that
`from_pretrained` reads. About 100 thousand parameters each; the same name always gives the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import blip, dual, gemma, idefics, intern, llava, mllama, pixtral, qwen

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
DUAL_ENCODERS = ("clip", "siglip")


def runs_here(name: str) -> bool:
    """Whether the installed Transformers can run the model: see `refuse_broken`."""
    if name != "smolvlm":
        return True
    from aspo_plugin.training.model_needs import refuse_broken

    try:
        refuse_broken(BUILDERS[name]()[0].config)
    except ValueError:
        return False
    return True


VISION_LANGUAGE = tuple(name for name in BUILDERS if name not in (*DUAL_ENCODERS, "text") and runs_here(name))


def build(name: str, folder: Path | str, dtype: Any = None) -> Path:
    """Write the model `name` (one of `BUILDERS`) to `folder` and return it; seeded, float32 or `dtype`."""
    import torch

    folder = Path(folder)
    if (folder / "config.json").exists():
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = BUILDERS[name]()
    if dtype is not None:
        model.to(dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
