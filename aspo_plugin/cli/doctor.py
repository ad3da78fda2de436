"""`aspo doctor`: what of the installation would keep a run from starting, and what it will run on."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from aspo_plugin import __version__
from dataset_tools.cli.group import SETTINGS

app = typer.Typer(add_completion=False, context_settings=SETTINGS)
OK, NOTE, BROKEN = "ok", "note", "broken"


class Finding(NamedTuple):
    """One line: `state` is ok, note (worth knowing) or broken (a run would stop)."""

    state: str
    about: str
    text: str


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at the installation: versions, hook, GPU, attention, caches; exit code 1 where a run would stop.

    Example: aspo doctor
    """
    findings = list(examine())
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    else:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False)
        colours = {OK: "green", NOTE: "yellow", BROKEN: "bold red"}
        for state, about, text in findings:
            table.add_row(Text(state, colours[state]), about, Text(text))
        Console().print(table)
    if any(finding.state == BROKEN for finding in findings):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """All findings, in the order in which a run would meet them."""
    yield Finding(OK, "aspo-plugin", f"{__version__}, Python {sys.version.split()[0]}")
    from dataset_tools import installed

    foreign = installed.warning()
    yield Finding(BROKEN, "dataset_tools", foreign) if foreign else Finding(OK, "dataset_tools", "ours")
    yield from _hosts()
    yield from _torch()
    yield from _caches()


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _hosts() -> Iterator[Finding]:
    found: list[str] = []
    for name, title in (("llamafactory", "LLaMA-Factory"), ("axolotl", "Axolotl"), ("trl", "TRL")):
        have = _installed(name)
        if not have:
            continue
        contract = import_module(f"aspo_plugin.{name}.contract")
        tested = ", ".join(contract.TESTED)
        if have in contract.TESTED:
            yield Finding(OK, title, f"{have}, tested")
        elif name == "trl" and contract.is_too_old(have):
            text = f"{have} is too old for aspo_plugin.trl, which needs {contract.OLDEST}; tested: {tested}"
            # Another host brings the TRL that it needs.
            yield Finding(NOTE if found else BROKEN, title, text)
        else:
            yield Finding(NOTE, title, f"{have} is untested; tested: {tested}")
        found.append(name)
    if not found:
        yield Finding(
            NOTE, "hosts", "neither LLaMA-Factory, Axolotl nor TRL is installed: the data tool only"
        )


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield Finding(NOTE, "torch", "not installed: no scoring and no training here (aspo-plugin[score])")
        return
    try:
        import torch
    except Exception as error:  # a broken build raises what it likes
        yield Finding(BROKEN, "torch", f"cannot be imported: {error}")
        return
    if _installed("llamafactory"):
        yield _hook()
    yield Finding(OK, "torch", torch.__version__)
    for name in ("torchvision", "transformers", "peft", "bitsandbytes", "deepspeed"):
        have = _installed(name)
        if not have:
            if name in ("torchvision", "transformers"):
                yield Finding(NOTE, name, "not installed; image processors of newer models need it")
            continue
        try:
            if name == "torchvision":
                import_module(name)  # built for another torch, it fails here and not in a run
            yield Finding(OK, name, have)
        except Exception as error:
            yield Finding(BROKEN, name, f"{have} does not fit torch {torch.__version__}: {error}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: set fp16"
            yield Finding(OK, f"GPU {index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {bf16}")
    else:
        why = ""
        if shutil.which("nvidia-smi"):
            why = "; a driver is there, but torch sees none (CUDA_VISIBLE_DEVICES, or a build for CPUs)"
        yield Finding(NOTE, "GPU", f"none: runs go on the CPU{why}")
    flash = _installed("flash-attn")
    if flash and torch.cuda.is_available():
        yield Finding(OK, "attention", f"flash-attn {flash}")
    else:
        yield Finding(
            OK, "attention", "torch's own (sdpa)" + ("" if flash else "; flash-attn is not installed")
        )


def _hook() -> Finding:
    """Whether `import torch` has put our import hook in place, without which LLaMA-Factory knows no ASPO."""
    if any(type(finder).__module__ == "aspo_autoload" for finder in sys.meta_path):
        return Finding(OK, "hook", "LLaMA-Factory knows stage: aspo")
    off = os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0"
    why = "unset TORCH_DEVICE_BACKEND_AUTOLOAD" if off else "install aspo-plugin into this environment again"
    return Finding(BROKEN, "hook", f"LLaMA-Factory does not know stage: aspo here: {why}")


def _caches() -> Iterator[Finding]:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**30
    state = NOTE if free < 20 else OK
    yield Finding(state, "Hub cache", f"{cache}, {free:,.0f} GiB free")
    if not os.access(there, os.W_OK):
        yield Finding(BROKEN, "Hub cache", f"{there} cannot be written to: set HF_HOME")
    if constants.HF_HUB_OFFLINE:
        yield Finding(NOTE, "Hub", "HF_HUB_OFFLINE is set: nothing is downloaded")
