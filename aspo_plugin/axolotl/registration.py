"""`register`: a raw config with `rl: aspo` is checked and becomes what Axolotl can run."""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
from typing import Any

from . import contract, patches
from .arguments import REFUSED, refuse
from .config import PLUGIN, TRAINER, is_aspo

logger = logging.getLogger(__name__)


def register(cfg: Any) -> None:
    """Check a raw config and turn `rl: aspo` into what Axolotl can run. A second call changes nothing.

    Raises `ValueError` for an option that cannot work, or where the config asks for something of ASPO, by the
    line in `plugins` or the block `aspo`, and does not say `rl: aspo`. (Axolotl calls the plugins it finds
    installed for every config, and those of earlier configs of the same process.)
    """
    listed = any(name.startswith("aspo_plugin.") for name in cfg.get("plugins") or [])
    if is_aspo(cfg) and cfg.get("rl") == "dpo":  # Ray registers the validated config again in each worker
        return
    if cfg.get("rl") != "aspo":
        if not listed and not cfg.get("aspo"):
            return
        asked = f"plugins lists {PLUGIN}" if listed else "there is a block aspo"
        raise ValueError(
            f"{asked}, but rl is {cfg.get('rl')}: nothing of ASPO would happen. "
            "Set rl: aspo, or remove the plugin (and the block aspo, if there is one)."
        )
    if not listed:
        if not contract.finds_plugins():
            raise ValueError(f"rl: aspo needs the line `plugins: [{PLUGIN}]` in this version of Axolotl.")
        # What a plugin that is listed cannot do stops a run; of one that was found, Axolotl only warns.
        cfg["plugins"] = [*(cfg.get("plugins") or []), PLUGIN]
    _refuse_flags(sys.argv[1:])
    _check_keys(cfg)
    refuse(cfg)
    contract.check_host()
    cfg["rl"] = "dpo"
    cfg["trainer_cls"] = TRAINER
    cfg["aspo"] = dict(cfg.get("aspo") or {})
    if cfg.get("seed") is None:
        cfg["seed"] = 42  # without one, every process shuffles and splits the data in its own way
    patches.merge_whole_checkpoint(cfg)
    patches.serve_evaluate(_prepare)
    patches.skip_peer_probe()


def _prepare(cfg: Any) -> tuple[Any, Any]:
    from .prepared import prepared_splits

    return prepared_splits(cfg)


def _refuse_flags(arguments: list[str]) -> None:
    flags = [argument for argument in arguments if argument.startswith("--aspo")]
    if flags:
        raise ValueError(
            f"{flags[0]} on the command line would change nothing: Axolotl takes no keys of plugins there. "
            "Write it into the block aspo of the config."
        )


def _check_keys(cfg: Any) -> None:
    """Axolotl drops keys that it does not know. One that is nearly a key is a mistake; others are named."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.schemas.config import AxolotlInputConfig

    schemas = [AxolotlInputConfig]
    for place in PluginManager.get_instance().get_input_args():
        module, _, name = place.rpartition(".")
        schemas.append(getattr(importlib.import_module(module), name))
    known = {
        key
        for schema in schemas
        for name, item in schema.model_fields.items()
        for key in (name, item.alias, item.validation_alias)
        if isinstance(key, str)
    }
    known |= REFUSED.keys()  # met with a better message; not every version of Axolotl has all of them
    unknown = [key for key in cfg if key not in known and not key.startswith(("_", "x-", "aspo"))]
    for key in unknown:
        if near := difflib.get_close_matches(key, known, n=1, cutoff=0.8):
            raise ValueError(f"{key} is no key of Axolotl, which would ignore it: did you mean {near[0]}?")
    if unknown:
        logger.warning("%s: no key of Axolotl, so it changes nothing", ", ".join(sorted(unknown)))
