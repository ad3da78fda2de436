"""What `rl: aspo` relies on in Axolotl, and whether the installed version has it. Imports nothing of ours."""

from __future__ import annotations

import functools
import importlib
import logging

logger = logging.getLogger(__name__)

TESTED = ("0.19.0", "0.21.0")

PLACES = (
    "axolotl.common.datasets:TrainDatasetMeta",
    "axolotl.common.datasets:load_preference_datasets",
    "axolotl.common.datasets:prepare_preference_datasets",
    "axolotl.core.builders.rl:HFRLTrainerBuilder._get_trainer_cls",
    "axolotl.core.trainers.dpo.trainer:AxolotlDPOTrainer",
    "axolotl.integrations.base:PluginManager.get_instance",
    "axolotl.loaders:load_processor",
    "axolotl.loaders:load_tokenizer",
    "axolotl.loaders.utils:load_model_config",
    "axolotl.prompt_strategies.dpo:load",
    "axolotl.train:setup_reference_model",
    "axolotl.utils.data.lock:FileLockLoader",
    "axolotl.utils.data.shared:create_train_validation_split",
    "axolotl.utils.data.shared:generate_dataset_hash_from_config",
    "axolotl.utils.data.shared:get_dataset_type",
    "axolotl.utils.data.shared:get_prepared_dataset_path",
    "axolotl.utils.data.shared:load_dataset_with_config",
    "axolotl.utils.data.shared:load_preprocessed_dataset",
    "axolotl.utils.data.shared:merge_datasets",
    "axolotl.utils.data.shared:save_preprocessed_dataset",
    "axolotl.utils.data.utils:deduplicate_and_log_datasets",
    "axolotl.utils.dict:DictDefault",
    "axolotl.utils.trainer:check_cuda_p2p_ib_support",
)
# (first version that has it, place)
SINCE = (
    ("0.21.0", "axolotl.core.builders.rl:HFRLTrainerBuilder._is_vision_rl"),
    ("0.21.0", "axolotl.integrations.base:get_builtin_plugins"),
)


def check_host(touched: tuple[str, ...] = PLACES[:3]) -> None:
    """Raise `RuntimeError` naming the first place of Axolotl that is not where it was.

    By default those that need no trainer imported, for when a config is read; `prepared.prepared_splits`,
    which every command passes before a model loads, asks for all of `PLACES`, and for those of `SINCE` that
    the version should have.
    """
    from axolotl import __version__
    from packaging.version import Version

    newer = [place for since, place in SINCE if touched is PLACES and Version(__version__) >= Version(since)]
    for place in (*touched, *newer):
        module, _, path = place.partition(":")
        try:
            functools.reduce(getattr, path.split("."), importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise RuntimeError(
                f"rl: aspo relies on {place}, which Axolotl {__version__} does not have ({error}). "
                f"It was tested with Axolotl {', '.join(TESTED)}: install that, or a newer aspo-plugin."
            ) from error
    if __version__ not in TESTED and touched is PLACES:
        logger.warning("rl: aspo was tested with Axolotl %s, this is %s", ", ".join(TESTED), __version__)


def finds_plugins() -> bool:
    """Whether Axolotl loads the plugins that installed packages name in the entry-point group of its own."""
    from axolotl.integrations import base

    return hasattr(base, "get_builtin_plugins")


def strategies_keep_images() -> bool:
    """Whether Axolotl's prompt strategies may give messages, which stand beside images, and not only text."""
    from axolotl.prompt_strategies.dpo import chat_template

    return hasattr(chat_template, "is_vision_dataset")


def file_type(path: str) -> str:
    """What Axolotl takes a file of a preference set for, by its name."""
    from axolotl.utils.data.shared import get_dataset_type
    from axolotl.utils.dict import DictDefault

    return str(get_dataset_type(DictDefault({"path": path})))
