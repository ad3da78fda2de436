"""What is replaced in Axolotl while it runs ASPO; each says what it relies on and when it can go.

`registration.register` asks for all but those that need a model or a trainer. `contract.PLACES` names what is
touched, so that a version that has moved stops with one message.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from .config import is_aspo, mark_evaluation


def _asks(module: Any, name: str, replace: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace `module.name` once, by a function made from it."""
    original = getattr(module, name)
    if getattr(original, "asks_aspo", False):
        return
    replaced = functools.wraps(original)(replace(original))
    replaced.asks_aspo = True  # type: ignore[attr-defined]
    setattr(module, name, replaced)


def serve_evaluate(prepare: Callable[[Any], tuple[Any, Any]]) -> None:
    """`axolotl evaluate` gets the datasets of `prepare` for a config of ASPO.

    Relies on: it reads them through `axolotl.common.datasets.prepare_preference_datasets` and asks no
    plugin's `load_datasets`. Can go when: it asks plugins, as `train` and `preprocess` do.
    """
    from axolotl.common import datasets as module

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare_datasets(cfg: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_aspo(cfg):
                return original(cfg, *args, **kwargs)
            mark_evaluation(cfg)
            return prepare(cfg)

        return prepare_datasets

    _asks(module, "prepare_preference_datasets", replace)


def build_without_host_collator(cfg: Any) -> None:
    """Axolotl's builder treats a set with images as it treats one without; the trainer brings the collator.

    Relies on: from 0.21, `HFRLTrainerBuilder._is_vision_rl` decides by the column `images`; then it wants
    rendered prompts to hold the token that stands for an image's features (Gemma 3's templates write another)
    and hands over a collator that knows no sentences. Can go when: a trainer class may choose its collator.
    """
    if not is_aspo(cfg):
        return
    from axolotl.core.builders.rl import HFRLTrainerBuilder

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self: not is_aspo(self.cfg) and original(self)

    if hasattr(HFRLTrainerBuilder, "_is_vision_rl"):
        _asks(HFRLTrainerBuilder, "_is_vision_rl", replace)


def hold_no_reference(cfg: Any) -> None:
    """With a reference cache the policy is its own reference before its first step: load no second model.

    Relies on: `axolotl.train.setup_reference_model` loads it and hands it to the trainer.
    Can go when: Axolotl asks the trainer or a plugin whether it needs one.
    """
    if not is_aspo(cfg):
        return
    from axolotl import train as module

    def replace(original: Callable[..., Any]) -> Callable[..., Any]:
        def setup(cfg: Any, *args: Any, **kwargs: Any) -> Any:
            cached = is_aspo(cfg) and (cfg.aspo or {}).get("reference_cache")
            return None if cached else original(cfg, *args, **kwargs)

        return setup

    _asks(module, "setup_reference_model", replace)


def skip_peer_probe() -> None:
    """Several processes on a machine without an accelerator.

    Relies on: `utils.trainer.check_cuda_p2p_ib_support` asks CUDA for peers and fails without a driver.
    Can go when: Axolotl trains with several processes on CPU.
    """
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available():
        from axolotl.utils import trainer as module

        module.check_cuda_p2p_ib_support = lambda: True


def fit_to_cpu(cfg: Any) -> None:
    """As above. Relies on: `device_map` is `{"": rank}`, which is no device of a CPU."""
    if cfg.device == "cpu" and cfg.world_size != 1:
        cfg.device_map = None


def merge_whole_checkpoint(cfg: Any) -> None:
    """`merge_method: legacy` for `axolotl merge-lora`, where the config names none.

    Relies on: `merge_lora` is in the raw config that the command loads. The default, `memory_efficient`,
    finds no layer of a LLaVA and writes the base model unchanged. Can go when: `cli.utils.lora_merge`
    composes the renamings of a LLaVA checkpoint.
    """
    if cfg.get("merge_lora") and not cfg.get("merge_method"):
        cfg["merge_method"] = "legacy"


def save_adapter_alone(cfg: Any, trainer: Any) -> None:
    """Keep Axolotl from writing the base model beside the adapter, with layers of both inside.

    Relies on: `axolotl.train.save_trained_model` saves the adapter, then the model below it, whose layers
    then have names that nothing can load; and on Ctrl-C Axolotl saves the latter alone. It writes the adapter
    both times. Can go when: Axolotl saves adapters of preference runs once.
    """
    if cfg.adapter and not cfg.rl_adapter_ref_model and hasattr(trainer.model, "get_base_model"):
        adapted = trainer.model
        adapted.get_base_model().save_pretrained = lambda folder, *args, **kwargs: adapted.save_pretrained(
            folder
        )
