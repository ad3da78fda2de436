"""Run a recipe through its host's own entry function, in a forked child: one import of the host for all."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from .catalog import ROOT, Recipe


def installed_host() -> str | None:
    """The host of this environment."""
    for name in ("llamafactory", "axolotl"):
        if importlib.util.find_spec(name):
            return name
    return None


def preload(host: str) -> None:
    """Import what a run needs, so that the forked children do not each do it."""
    if host == "llamafactory":
        import llamafactory.train.tuner  # noqa: F401
    else:
        import axolotl.cli.train  # noqa: F401
        import axolotl.core.builders  # noqa: F401


def run_llamafactory(arguments: dict[str, Any]) -> None:
    from llamafactory.train.tuner import run_exp

    run_exp(args=arguments)


def run_axolotl(config: Path) -> None:
    from axolotl.cli.train import do_cli

    do_cli(str(config))


def train(recipe: Recipe, changes: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Train `recipe` with `changes`; the host's log, or `AssertionError` with its output."""
    values = {**recipe.values, **changes}
    values = {key: value for key, value in values.items() if value is not None}
    if recipe.host == "llamafactory":
        forked(lambda: run_llamafactory(values), folder / "log.txt")
    else:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(values))
        forked(lambda: run_axolotl(config), folder / "log.txt")
    return history(Path(values["output_dir"]))


def history(output: Path) -> list[dict[str, Any]]:
    """The trainer's log of the last checkpoint or of the finished run."""
    states = sorted(output.rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    assert states, f"no trainer_state.json below {output}: {[path.name for path in output.rglob('*')]}"
    return json.loads(states[-1].read_text())["log_history"]


def forked(call: Callable[[], None], log: Path, timeout: float = 560) -> None:
    """Run `call` in a forked child, its output in `log`; `AssertionError` with the log's end if it fails."""
    child = os.fork()
    if child == 0:
        _child(call, log, timeout)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"exit code {status}\n{log.read_text(errors='replace')[-4000:]}"


def _child(call: Callable[[], None], log: Path, timeout: float) -> None:
    code = 1
    try:
        with open(log, "w", buffering=1) as stream:
            # Ends a child that hangs, with the stack of every thread.
            faulthandler.dump_traceback_later(timeout, exit=True, file=stream)
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            os.chdir(ROOT)
            try:
                call()
                code = 0
            except BaseException:
                traceback.print_exc()
    finally:
        # No exit handlers: those of the parent (pytest, the host's loggers) are not the child's to run.
        os._exit(code)
