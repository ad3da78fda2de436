"""What runs at `import torch`, through the `torch.backends` entry point: a lazy import hook, nothing else.

LLaMA-Factory has no plugin registry and starts fresh interpreters (torchrun, Ray, LLaMA Board), so the
package must be found in each of them without a line of the user's. The hook costs one set look-up per module
imported afterwards; nothing of this package is imported until one of `TARGETS` is.
TORCH_DEVICE_BACKEND_AUTOLOAD=0 switches it off, and with it `stage: aspo`.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# The modules that `aspo_plugin.llamafactory.patches` adjusts, each right after it has been imported.
TARGETS = frozenset(
    f"llamafactory.{name}"
    for name in (
        "hparams.finetuning_args",
        "data.converter",
        "data.loader",
        "data.template",
        "model.model_utils.visual",
        "train.dpo",
        "train.dpo.trainer",
        "webui.control",
        "webui.runner",
    )
)


def autoload() -> None:
    """Install the hook once. Never raises: an exception here would break `import torch` for everyone."""
    try:
        if not any(isinstance(finder, HookFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, HookFinder())
            for name in TARGETS & sys.modules.keys():
                _adjust(sys.modules[name])
    except Exception as error:
        sys.stderr.write(f"aspo-plugin did not load, so `stage: aspo` is unknown: {error!r}\n")


def _adjust(module: ModuleType) -> None:
    from aspo_plugin.llamafactory.patches import adjust

    adjust(module)


class HookFinder(MetaPathFinder):
    """Lets the other finders find a target, then has its loader call `patches.adjust` after executing it."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in TARGETS:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = HookLoader(spec.loader)
                return spec
        return None


class HookLoader(Loader):
    """The original loader, with `patches.adjust` after `exec_module`; everything else is passed through."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _adjust(module)

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._loader, name)
