"""Two machines of a Ray cluster on this one, for programs that lose one, and what the tests see of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_BEGAN = time.time()


def told(what: str) -> None:
    """A line of a program, with the seconds since it began."""
    print(f"{time.time() - _BEGAN:5.0f} s  {what}", file=sys.stderr, flush=True)


def two_machines(place: str) -> tuple[Any, Any]:
    """A cluster of two machines with one processor each, and the second of them."""
    from ray.cluster_utils import Cluster as Machines

    def tried(start: Callable[[], Any]) -> Any:
        for _ in range(5):
            try:  # Ray gives its own processes 30 seconds to start, which a busy machine may not do
                return start()
            except Exception as error:
                told(f"Ray did not start: {error}")

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    head = {**small, "temp_dir": place, "include_dashboard": False}
    machines = tried(lambda: Machines(initialize_head=True, head_node_args=head))
    second = tried(lambda: machines.add_node(**small))
    machines.wait_for_nodes()
    told("two nodes")
    return machines, second


def until(there: Callable[[], bool], driver: Any) -> None:
    """Wait for something that a driver does."""
    while not there():
        assert driver.poll() is None, "the driver ended"
        time.sleep(0.1)


def worker() -> Any:
    """A process below this one that is at a piece of work."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] == ["ray::Worker.call"]:
                return process
    return None


def kill_one(found: dict[str, Any], before: int | None) -> None:
    """Kill the next process at work that is not `before`."""
    while True:
        process = worker()
        if process and process.pid != before:
            process.kill()
            found["killed"] = process.pid
            told("killed a worker")
            return
        time.sleep(0.05)


def digests(folder: Path) -> dict[str, str]:
    """The content of every file of a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def machines_place() -> Iterator[str]:
    """A folder for Ray; what still runs in it in the end, if the program was stopped, is ended."""
    import psutil

    with tempfile.TemporaryDirectory(prefix="aspo-ray-", ignore_cleanup_errors=True) as place:
        try:
            yield place
        finally:
            for process in psutil.process_iter(["cmdline"]):
                if any(place in word for word in process.info["cmdline"] or ()):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()


def run_program(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program that starts machines."""
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=400,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "OMP_NUM_THREADS": "1",
        },
    )
