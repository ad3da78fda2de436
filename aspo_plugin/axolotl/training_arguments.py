"""What a run of ASPO needs of Axolotl's training arguments and callbacks beyond its config."""

from __future__ import annotations

from typing import Any

from .config import is_aspo

# Arguments of every trainer that Axolotl reads for supervised fine-tuning and leaves out for preferences.
_PASSED_ON = (
    "auto_find_batch_size",
    "dataloader_drop_last",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_timeout",
    "greater_is_better",
    "load_best_model_at_end",
    "metric_for_best_model",
)


def training_args(cfg: Any) -> dict[str, Any] | None:
    """What the training arguments need beyond the config."""
    if not is_aspo(cfg):
        return None
    # ASPO computes log-probs only, so a mixture-of-experts model gets no load-balancing loss.
    args: dict[str, Any] = {"router_aux_loss_coef": 0.0}
    args |= {key: cfg[key] for key in _PASSED_ON if cfg[key] is not None}
    if cfg.early_stopping_patience:
        args.setdefault("load_best_model_at_end", True)
        args.setdefault("metric_for_best_model", "loss")
    if cfg.device == "cpu":
        args["use_cpu"] = True  # else several processes would each train alone
    return args


def callbacks(cfg: Any) -> list[Any]:
    """Those that Axolotl adds to its trainer of supervised fine-tuning only."""
    from transformers import EarlyStoppingCallback

    wanted = is_aspo(cfg) and cfg.early_stopping_patience
    return [EarlyStoppingCallback(cfg.early_stopping_patience)] if wanted else []
