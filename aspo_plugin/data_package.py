"""The way from this distribution to its `dataset_tools`, which another distribution may have replaced.

A distribution named dataset-tools on the registry installs a top-level `dataset_tools` too. Where it comes
first on the path, ours cannot be imported, so the check for it lives here.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec

from aspo_plugin.interrupt import interruptible


def check_dataset_tools() -> None:
    """Raise `ImportError` naming the culprit where `dataset_tools` is not this distribution's package."""
    try:
        import_module("dataset_tools").foreign_distributions  # noqa: B018  another package has no such name
        import_module("dataset_tools.installed")
    except (ImportError, AttributeError):
        spec = find_spec("dataset_tools")
        where = list(spec.submodule_search_locations or []) if spec else []
        owners = sorted(set(packages_distributions().get("dataset_tools", [])) - {"aspo-plugin"})
        named = ", ".join(f"{owner} {version(owner)}" for owner in owners) or "something else"
        remedy = f"`pip uninstall {' '.join(owners)}`, then " if owners else "Rename or remove it, or "
        raise ImportError(
            f"the package dataset_tools belongs to {named} ({', '.join(where) or 'not found'}), but "
            f"aspo-plugin needs its own. {remedy}`pip install --force-reinstall --no-deps aspo-plugin`."
        ) from None


@interruptible
def main() -> None:
    """Entry point of the console script `aspo-data`."""
    try:
        check_dataset_tools()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    import_module("dataset_tools.cli").main()
