"""`rl: aspo` in Axolotl: list `aspo_plugin.axolotl.AspoPlugin` under `plugins`. See docs/axolotl.md.

Axolotl logs an ImportError of a plugin and goes on, so this module imports nothing that could fail. The
plugin is imported when it is asked for: the schema of the keys is made without a host, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plugin import AspoPlugin

__all__ = ["AspoPlugin"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .plugin import AspoPlugin

    globals()[name] = AspoPlugin
    return AspoPlugin
