"""`rl: aspo` in Axolotl: list `aspo_plugin.axolotl.AspoPlugin` under `plugins`. See docs/axolotl.md.

Axolotl logs an ImportError of a plugin and goes on, so this module imports nothing that could fail.
"""

from .plugin import AspoPlugin

__all__ = ["AspoPlugin"]
