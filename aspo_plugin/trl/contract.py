"""Which versions of TRL the trainer runs on. Imports nothing of ours."""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version

OLDEST = "1.9.0"
"""Below it TRL's `DPOTrainer` is built in another way."""
TESTED = ("1.9.0", "1.14.1", "1.16.0")


def is_too_old(installed: str) -> bool:
    """Whether `AspoTrainer` cannot be built on this version of TRL."""
    from packaging.version import Version

    return Version(installed) < Version(OLDEST)


def check_version() -> None:
    """Raise `ImportError` on a version of TRL that is too old; warn on one that was not tested."""
    try:
        installed = version("trl")
    except PackageNotFoundError:  # what needs it says so
        return
    if is_too_old(installed):
        raise ImportError(
            f"aspo_plugin.trl needs TRL {OLDEST} or newer, and this is {installed}: "
            "pip install -U 'aspo-plugin[trl]'. It was tested with " + ", ".join(TESTED) + "."
        )
    if installed not in TESTED:
        logging.getLogger(__name__).warning(
            "aspo_plugin.trl was tested with TRL %s, this is %s", ", ".join(TESTED), installed
        )
