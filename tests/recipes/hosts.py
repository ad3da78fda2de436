"""Run a recipe through its host's own entry function, in a forked child: one import of the host for all."""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import socket
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
    os.environ["DS_ACCELERATOR"] = "cpu"
    import tests.support.deepspeed_on_cpu.sitecustomize  # noqa: F401  # before anything imports DeepSpeed

    if host == "llamafactory":
        import llamafactory.cli
        import llamafactory.train.tuner  # noqa: F401
    else:
        import axolotl.cli.main
        import axolotl.cli.train
        import axolotl.core.builders
        import axolotl.core.trainers.dpo.trainer
        import axolotl.train  # noqa: F401


def preload_deepspeed() -> None:
    """The same for runs that share by DeepSpeed."""
    collectives = importlib.import_module("deepspeed.comm.torch")
    assert collectives.build_shm_op() is None


def train(
    recipe: Recipe, changes: dict[str, Any], folder: Path, more: Path | None = None, processes: int = 1
) -> list[dict[str, Any]]:
    """Train `recipe` with `more` (a file of recipes/shared) and `changes` laid over it; the host's log.

    The host reads the files and the changes itself, as it does behind its own command. `AssertionError` with
    the end of its output where it fails.
    """
    if recipe.host == "llamafactory":
        shared = more.read_text(encoding="utf-8").split() if more else []
        words = [f"{key}={value}" for key, value in changes.items()]
        forked(lambda: run_llamafactory([str(recipe.path), *shared, *words]), folder / "log", processes)
    else:
        config = write_config(recipe, changes, folder)
        forked(lambda: run_axolotl(config, more), folder / "log", processes)
    return history(Path(changes["output_dir"]))


def command(recipe: Recipe, changes: dict[str, Any], folder: Path, launcher: str = "python") -> list[str]:
    """What a user types to train `recipe` with `changes`; `launcher` is for Axolotl."""
    program = Path(sys.executable).parent
    if recipe.host == "llamafactory":
        words = [f"{key}={value}" for key, value in changes.items()]
        return [str(program / "llamafactory-cli"), "train", str(recipe.path), *words]
    config = write_config(recipe, changes, folder)
    return [str(program / "axolotl"), "train", str(config), "--launcher", launcher]


def write_config(recipe: Recipe, changes: dict[str, Any], folder: Path) -> Path:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({**recipe.values, **changes}))
    return config


def run_llamafactory(words: list[str]) -> None:
    """`llamafactory-cli train WORDS`; on several processes what its launcher has torchrun start."""
    if "RANK" in os.environ:
        from llamafactory.train.tuner import run_exp

        sys.argv = ["launcher.py", *words]
        run_exp()
    else:
        from llamafactory.cli import main

        sys.argv = ["llamafactory-cli", "train", *words]
        main()


def run_axolotl(config: Path, sweep: Path | None) -> None:
    """`axolotl train CONFIG [--sweep SWEEP]`; on several processes what it has torchrun start."""
    if "RANK" in os.environ:
        from axolotl.cli.train import do_cli
        from axolotl.cli.utils.train import generate_config_files

        for path, _ in generate_config_files(str(config), str(sweep) if sweep else None):
            do_cli(path)
    else:
        from axolotl.cli.main import cli

        words = ["train", str(config), "--launcher", "python", *(["--sweep", str(sweep)] if sweep else [])]
        cli.main(words, standalone_mode=False)


def history(output: Path) -> list[dict[str, Any]]:
    """The trainer's log of the last checkpoint or of the finished run."""
    states = sorted(output.rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    assert states, f"no trainer_state.json below {output}: {[path.name for path in output.rglob('*')]}"
    return json.loads(states[-1].read_text())["log_history"]


def forked(call: Callable[[], None], log: Path, processes: int = 1, timeout: float = 560) -> None:
    """Run `call` in forked children, as ranks where they are several, their output in `log` + a number.

    `AssertionError` with the end of the log if one of them fails.
    """
    ranks = _ranks(processes) if processes > 1 else [{}]
    children = []
    for rank, variables in enumerate(ranks):
        child = os.fork()
        if child == 0:
            os.environ.update(variables)
            _forget_processes()
            _child(call, _log(log, rank), timeout)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for rank, status in enumerate(statuses):
        assert status == 0, f"exit codes {statuses}\n{_log(log, rank).read_text(errors='replace')[-4000:]}"


def _forget_processes() -> None:
    """What accelerate has learnt of the parent, which is one process: a child may be one of several."""
    if "accelerate.state" in sys.modules:
        state = sys.modules["accelerate.state"]
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def _log(log: Path, rank: int) -> Path:
    return log.with_name(f"{log.name}-{rank}.txt")


def _ranks(processes: int) -> list[dict[str, str]]:
    """What torchrun sets in the environment of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    common |= {"LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0"}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


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
            except SystemExit as end:
                code = 0 if end.code in (None, 0) else 1
            except BaseException:
                traceback.print_exc()
    finally:
        # No exit handlers: those of the parent (pytest, the host's loggers) are not the child's to run.
        os._exit(code)
