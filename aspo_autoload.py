"""What runs at `import torch`, through the `torch.backends` entry point: a lazy import hook that cannot fail.

LLaMA-Factory has no plugin registry and starts fresh interpreters (torchrun, Ray, LLaMA Board), so the
package must be found in each of them without a line of the user's. torch does not start where an entry point
raises, so this module is outside of the package and needs nothing of it: with `aspo_plugin` damaged or half
removed, torch and every other stage of LLaMA-Factory run as without it, and one line says what is wrong.

The hook costs one set look-up per module imported afterwards; nothing of the package is imported until one of
`TARGETS` is. TORCH_DEVICE_BACKEND_AUTOLOAD=0 switches it off, and with it `stage: aspo`.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder

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
        "v1.config.arg_parser",
        "webui.components.train",
        "webui.control",
        "webui.runner",
    )
)
# Commands, and modules for `python -m`, that start a run in other processes and end in words of their own.
LAUNCHERS = frozenset(
    (
        *("torchrun", "torch.distributed.run", "torch.distributed.launch"),
        *("accelerate", "accelerate.commands.accelerate_cli"),
        *("accelerate-launch", "accelerate.commands.launch"),
        *("deepspeed", "deepspeed.pt", "ds", "deepspeed.launcher.runner"),
        *("axolotl", "axolotl.cli.main", "llamafactory-cli", "llamafactory", "lmf", "llamafactory.cli"),
    )
)
_reported: set = set()
_unfinished: set = set()  # targets whose own imports led to torch, and which are adjusted when they are whole


def autoload() -> None:
    """Install the hook once. Never raises."""
    try:
        if not any(isinstance(finder, HookFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, HookFinder())
            _unfinished.update(TARGETS & sys.modules.keys())
            _adjust_finished()
            if "ASPO_LAST_LINE" in os.environ or _command() in LAUNCHERS:
                from aspo_plugin.last_line import settle

                settle()
    except Exception as error:
        _report(error)


def _command() -> str:
    """The command that this process is, by its file's name; with `python -m` the module's name."""
    if not getattr(sys, "argv", None):  # Python within another program
        return ""
    if sys.argv[0] == "-m":  # torch is imported while Python still looks for the module
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec else os.path.basename(sys.argv[0])


def _adjust_finished() -> None:
    """Adjust what was imported before the hook, but for modules that are still being executed."""
    for name in sorted(_unfinished):
        module = sys.modules.get(name)
        if module is None or not getattr(module.__spec__, "_initializing", False):
            _unfinished.discard(name)
            if module is not None:
                _adjust(module)


def _adjust(module) -> None:
    """Hand a module that has just been imported to the package. Never raises."""
    try:
        from aspo_plugin.llamafactory.patches import adjust

        adjust(module)
    except Exception as error:
        _report(error)


def _report(error: BaseException) -> None:
    """Say once what is wrong, where there is somebody to say it to."""
    try:
        text = f"{type(error).__name__}: {error}"
        if not _reported:
            _reported.add(text)
            sys.stderr.write(
                f"aspo-plugin is damaged, so `stage: aspo` cannot run ({text}). Everything else runs as "
                "without it. Install it again (pip install --force-reinstall --no-deps aspo-plugin) or "
                "remove it (pip uninstall aspo-plugin).\n"
            )
    except Exception:  # no stderr, or one that takes no such text
        pass


class HookFinder(MetaPathFinder):
    """Lets the other finders find a target, then has its loader call `patches.adjust` after executing it."""

    def find_spec(self, fullname, path, target=None):
        if _unfinished:
            _adjust_finished()
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

    def __init__(self, loader) -> None:
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        self._loader.exec_module(module)
        _adjust(module)

    def __getattr__(self, name):
        if name == "_loader":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._loader, name)
