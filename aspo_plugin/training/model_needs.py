"""What a model needs beyond its host, said in one line before it loads."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# How Transformers, and models with code of their own, name a package that is missing.
_NAMES = (r"pip install ([\w.-]+)", r"requires the (\w+) library", r"[Pp]ackage `([\w-]+)` is required")


@contextmanager
def missing_packages_named(model: str) -> Iterator[None]:
    """While a processor or a model is loaded. Raises `ImportError` with the command that brings a package."""
    try:
        yield
    except ImportError as error:
        package = _missing(error)
        if package is None:
            raise
        raise ImportError(
            f"{model} needs {package}, which is not installed: pip install {package}"
        ) from error


def _missing(error: BaseException) -> str | None:
    """The package, or None. Transformers wraps what is missing in errors that only name its own class."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    found = (re.search(name, str(cause)) for cause in causes for name in _NAMES)
    told = next((match[1].lower() for match in found if match), None)
    names = (cause.name for cause in causes if isinstance(cause, ModuleNotFoundError) and cause.name)
    return told or next((name.partition(".")[0] for name in names), None)


def name_missing_packages(model: str, **options: Any) -> None:
    """Where a host went on without a processor that did not load: raise what was missing, if it was."""
    from transformers import AutoProcessor

    with missing_packages_named(model):
        try:
            AutoProcessor.from_pretrained(model, **options)
        except ImportError:
            raise
        except Exception:
            return  # no model with a processor, or one that the host tells of


def refuse_broken(config: Any) -> None:
    """Raise `ValueError` for a model that the installed Transformers cannot run, or not for this.

    Transformers 4 gives PaliGemma its causal mask only where labels are passed: without them, as log-probs
    are computed here, every token of an answer sees those that follow it.

    Transformers 5.20 takes the side of SmolVLM's patches for the number of an image's tokens, so a model runs
    only where that number divides the other: not SmolVLM2-2.2B with its 81 tokens and patches of 14.
    """
    kind = getattr(config, "model_type", None)
    if kind == "paligemma":
        _refuse_paligemma()
    elif kind == "smolvlm":
        _refuse_smolvlm(config)


def _refuse_paligemma() -> None:
    import transformers
    from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel

    if "labels is not None" in inspect.getsource(PaliGemmaModel.forward):
        raise ValueError(
            f"transformers {transformers.__version__} lets PaliGemma's tokens see the rest of their answer "
            "where no labels are passed, so nothing would be learned: install transformers 5 (LLaMA-Factory "
            "takes it from 0.9.5 on)."
        )


def _refuse_smolvlm(config: Any) -> None:
    import transformers
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMModel

    merger = getattr(SmolVLMModel, "inputs_merger", None)
    vision = config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
    if merger is None or "vision_config.patch_size" not in inspect.getsource(merger):
        return
    if tokens % vision.patch_size:
        raise ValueError(
            f"transformers {transformers.__version__} cannot run a SmolVLM of {tokens} tokens an image and "
            f"patches of {vision.patch_size}: install another version (Axolotl 0.19 brings one that can)."
        )
