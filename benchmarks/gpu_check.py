"""What ASPO costs on this GPU beside the hosts' own DPO: one command, at most nine minutes, one JSON file.

    python -m benchmarks.gpu_check --out FOLDER                 with the hosts that are installed here
    python -m benchmarks.gpu_check --wheels .whl --out FOLDER   packages from a folder: no index needed
    python -m benchmarks.gpu_check --tiny --device cpu          tries all of it without a GPU

Each stage is a process of its own with a deadline; what it finds is in FOLDER/gpu_check.json at once, so a
stage that fails or is stopped loses nothing of the others. Models have the true shapes of 7B and random
weights made on the device; nothing is downloaded. How to run it anywhere: docs/gpu_check.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STOP = 20  # seconds kept for what is still to be written


@dataclass(frozen=True)
class Stage:
    """`run`: module and function, called with a `Run`; `seconds`: its deadline. `host`: what it needs."""

    name: str
    run: str
    seconds: int
    host: str = ""


# What matters most comes first: a short budget leaves out the end.
STAGES = (
    Stage("machine", "gpu_kernel:machine", 40),
    Stage("kernel against float64", "gpu_kernel:against_float64", 45),
    Stage("steps: llava, TRL", "gpu_steps:llava_trl", 110),
    Stage("steps: qwen2.5-vl, TRL", "gpu_steps:qwen_trl", 110),
    Stage("gpu tests", "gpu_kernel:tests", 60),
    Stage("steps: llava, LLaMA-Factory", "gpu_steps:llava_llamafactory", 60, "llamafactory"),
    Stage("steps: qwen2.5-vl, LLaMA-Factory", "gpu_steps:qwen_llamafactory", 60, "llamafactory"),
    Stage("kernel times", "gpu_kernel:times", 40),
    Stage("first calls", "gpu_kernel:first_calls", 40),
    Stage("long prompts: llava, TRL", "gpu_steps:long_prompts", 90),
    Stage("Liger kernels: llava, TRL", "gpu_steps:liger_trl", 60),
)


class Run:
    """What a stage gets: the options, and where its results go."""

    def __init__(self, options: argparse.Namespace, path: Path) -> None:
        self.device, self.tiny, self._path = options.device, options.tiny, path

    def record(self, **values: Any) -> None:
        """Keep one result, at once."""
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def synchronize(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


def run_stage(options: argparse.Namespace) -> None:
    stage = next(stage for stage in STAGES if stage.name == options.stage)
    module, function = stage.run.split(":")
    getattr(importlib.import_module(f"benchmarks.{module}"), function)(Run(options, Path(options.results)))


def run_all(options: argparse.Namespace) -> int:
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    kept: dict[str, Any] = {"date": date.today().isoformat(), "arguments": sys.argv[1:], "stages": {}}
    if options.device == "cuda":  # a new machine reads torch from a cold disk: that is no stage's time
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, "-c", "import torch, transformers"], check=False, timeout=120)
    environments = {host: _environment(options, host) for host in ("", "llamafactory")}
    with tempfile.TemporaryDirectory() as folder:
        for number, stage in enumerate(STAGES):
            if options.only and not any(part in stage.name for part in options.only):
                continue
            left = options.minutes * 60 - STOP - (time.monotonic() - began)
            entry: dict[str, Any] = {"status": "no time left", "seconds": 0.0, "results": []}
            kept["stages"][stage.name] = entry
            seconds = stage.seconds * (10 if options.tiny else 1)  # a shared CPU is slow to import
            if left > 5:
                results, environment = Path(folder) / f"{number}.jsonl", environments[stage.host]
                _watch(
                    options, stage, results, min(seconds, left), entry, lambda: _write(out, kept), environment
                )
            _write(out, kept)
            print(f"{stage.name}: {entry['status']}, {entry['seconds']:.0f} s, "
                  f"{len(entry['results'])} results", flush=True)  # fmt: skip
    kept["seconds"] = round(time.monotonic() - began, 1)
    _write(out, kept)
    print(f"wrote {out / 'gpu_check.json'}")
    return int(any(entry["status"] == "failed" for entry in kept["stages"].values()))


def _watch(
    options: argparse.Namespace,
    stage: Stage,
    results: Path,
    seconds: float,
    entry: dict[str, Any],
    write: Any,
    environment: dict[str, str],
) -> None:
    """Run a stage to its end or its deadline; its results are written as they come."""
    command = [
        sys.executable, "-m", "benchmarks.gpu_check", "--stage", stage.name, "--results", str(results),
        "--device", options.device, *(["--tiny"] if options.tiny else []),
    ]  # fmt: skip
    began = time.monotonic()
    errors = results.with_suffix(".log")
    with errors.open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        status = "deadline"
        try:
            while time.monotonic() - began < seconds:
                if process.poll() is not None:
                    status = "done" if process.returncode == 0 else "failed"
                    break
                time.sleep(0.5)
                if _read(results, entry):
                    write()
        finally:
            if process.poll() is None:
                # And what it started: pytest would go on beside the next stage.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    _read(results, entry)
    entry.update(status=status, seconds=round(time.monotonic() - began, 1))
    if status != "done":
        entry["log"] = errors.read_text(errors="replace")[-3000:]


def _read(results: Path, entry: dict[str, Any]) -> bool:
    """Take over what a stage has recorded; whether that is more than before."""
    lines = results.read_text().splitlines(keepends=True) if results.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    more, entry["results"] = len(found) > len(entry["results"]), found
    return more


def _write(out: Path, kept: dict[str, Any]) -> None:
    part = out / "gpu_check.json.part"
    part.write_text(json.dumps(kept, indent=1) + "\n")
    part.replace(out / "gpu_check.json")


def _environment(options: argparse.Namespace, host: str) -> dict[str, str]:
    """Without telemetry and version checks; with the packages of `--wheels` before the installed ones.

    A host's own, in a subfolder of that name, come before those for all: the hosts pin disjoint versions.
    """
    quiet = {
        "AXOLOTL_DO_NOT_TRACK": "1", "DISABLE_VERSION_CHECK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    environment = {**os.environ, **quiet}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    folders = [Path(options.wheels), Path(options.wheels) / host] if options.wheels else []
    for folder in dict.fromkeys(folders):
        wheels = sorted(map(str, folder.glob("*.whl")))
        if not wheels and folder == Path(options.wheels):
            sys.exit(f"--wheels {folder}: no wheel is there; docs/gpu_check.md says how to fill it")
        target = tempfile.mkdtemp(prefix="gpu_check_packages_")
        pip = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target]
        if wheels:
            subprocess.run([sys.executable, *pip, *wheels], check=True)
        paths.insert(1, target)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models: to try the script, not to measure")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything together (default: 9)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="stages whose name contains one of these")
    parser.add_argument("--wheels", help="folder of wheels to use where there is no package index")
    parser.add_argument("--out", default=os.environ.get("OUT", ".artifacts/gpu_check"), help="folder (OUT)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--results", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options)
        return 0
    return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
