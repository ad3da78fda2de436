"""Run the test suites, two lanes side by side, and print one table at the end.

    python tools/run_tests.py            all lanes of `make test`
    python tools/run_tests.py axolotl    one of them

Standard library only: it runs outside every environment.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

# name: (environment, pytest arguments)
SUITES = {
    "data": ("data", ["tests/data"]),
    "faults": ("data", ["tests/faults"]),
    "core": ("llamafactory", ["tests/core"]),
    "score": ("llamafactory", ["tests/score"]),
    "study": ("llamafactory", ["tests/study"]),
    "llamafactory": ("llamafactory", ["tests/llamafactory"]),
    "core-axolotl": ("axolotl", ["tests/core", "--ignore=tests/core/test_gpu_check.py"]),
    "trl": ("axolotl", ["tests/trl"]),
    "axolotl": ("axolotl", ["tests/axolotl"]),
    "recipes-llamafactory": ("llamafactory", ["tests/recipes"]),
    "recipes-axolotl": ("axolotl", ["tests/recipes"]),
    "journeys-llamafactory": ("llamafactory", ["tests/journeys"]),
    "journeys-axolotl": ("axolotl", ["tests/journeys"]),
    "browser": ("llamafactory", ["tests/browser"]),
    "llamafactory-0.9.4": ("llamafactory-0.9.4", ["tests/llamafactory"]),
    "axolotl-0.19": ("axolotl-0.19", ["tests/axolotl"]),
    "trl-1.9": ("axolotl-0.19", ["tests/trl"]),
    "trl-1.16": ("trl-1.16", ["tests/core", "tests/trl"]),
    # Of whatever is newest: each private place that is relied on, and first runs against the host's own DPO.
    "newest-llamafactory": (
        "newest-llamafactory",
        [
            f"tests/llamafactory/test_{name}.py"
            for name in ("contract", "install", "equals_dpo", "oracle", "trainer")
        ],
    ),
    "newest-axolotl": (
        "newest-axolotl",
        [f"tests/axolotl/test_{name}.py" for name in ("config", "own_dpo", "reference")],
    ),
    "newest-trl": ("newest-trl", [f"tests/trl/test_{name}.py" for name in ("trainer", "collator", "rows")]),
}
# What each target runs: lanes go side by side, the suites of a lane one after the other.
TARGETS = {
    "all": [["data", "faults", "core", "llamafactory"], ["axolotl", "core-axolotl", "trl", "score", "study"]],
    "data": [["data", "faults"]],
    "llamafactory": [["core", "score", "study", "llamafactory"]],
    "axolotl": [["core-axolotl", "trl", "axolotl"]],
    "recipes": [["recipes-llamafactory"], ["recipes-axolotl"]],
    "browser": [["browser", "journeys-llamafactory"], ["journeys-axolotl"]],
    "journeys": [["journeys-llamafactory"], ["journeys-axolotl"]],
    "hosts": [["llamafactory-0.9.4", "trl-1.16"], ["axolotl-0.19", "trl-1.9"]],
    "newest": [["newest-llamafactory", "newest-trl"], ["newest-axolotl"]],
}
_printing = threading.Lock()
_stopped = threading.Event()


class Result(NamedTuple):
    name: str
    status: str  # pytest's closing line, or what failed
    seconds: float
    failures: list[str]  # pytest's lines of the tests that failed or could not run


def run_suite(name: str) -> Result:
    """Run one suite and echo its lines under its name."""
    env_name, arguments = SUITES[name]
    bin_dir = ROOT / ".venv" / env_name / "bin"
    environment = dict(os.environ, OMP_NUM_THREADS="1", PATH=f"{bin_dir}{os.pathsep}{os.environ['PATH']}")
    # DeepSpeed compiles against one torch: builds of two environments must not meet.
    environment["TORCH_EXTENSIONS_DIR"] = str(ROOT / ".venv" / env_name / "torch_extensions")
    environment.pop("VIRTUAL_ENV", None)
    environment.pop("PYTHONPATH", None)
    began = time.monotonic()
    if not (bin_dir / "python").exists():
        return Result(name, f"FAILED: .venv/{env_name} could not be made", 0.0, [])
    process = subprocess.Popen(
        [str(bin_dir / "python"), "-m", "pytest", "--durations=5", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    closing, failures = "no output", []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.strip():
                closing = line.strip(" =\n")
            if line.startswith(("FAILED ", "ERROR ")):
                failures.append(line.strip())
            with _printing:
                print(f"[{name}] {line}", end="", flush=True)
    except BaseException:  # nobody reads what it prints: it would wait for ever
        process.kill()
        raise
    code = process.wait()
    status = closing if code == 0 else f"FAILED (exit code {code}): {closing}"
    return Result(name, status, time.monotonic() - began, failures)


def main(target: str) -> int:
    # A job that a shell starts in the background ignores Ctrl-C, and so would programs that tests interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have a letter that a test prints
        sys.stdout.reconfigure(errors="replace")
    results: list[Result] = []

    def lane(names: list[str]) -> None:
        for name in names:
            if _stopped.is_set():
                return
            try:
                results.append(run_suite(name))
            except Exception as error:
                results.append(Result(name, f"FAILED: {type(error).__name__}: {error}", 0.0, []))

    threads = [threading.Thread(target=lane, args=(names,)) for names in TARGETS[target]]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:  # pytest has had it from the terminal, too
        _stopped.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    # What did not run has not passed.
    ran = {result.name for result in results}
    missing = [name for names in TARGETS[target] for name in names if name not in ran]
    results += [Result(name, "FAILED: not run", 0.0, []) for name in missing]
    print("\nsuite                  seconds  result")
    for result in results:
        print(f"{result.name:<22} {result.seconds:7.0f}  {result.status}")
    # Named again here: where only a log's end is kept, this is what is left of it.
    for result in results:
        for line in result.failures:
            print(f"[{result.name}] {line}")
    failed = sum(result.status.startswith("FAILED") for result in results)
    print(f"{len(results) - failed} suites passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "all"
    if name not in TARGETS:
        sys.exit(f"unknown target {name!r}: choose one of {', '.join(TARGETS)}")
    sys.exit(main(name))
