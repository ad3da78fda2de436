"""How long `aspo-data COMMAND --help` takes beside a bare Typer app with one command.

    python -m benchmarks.cli_start

Wall and processor time, each the least of several runs, the two programs in turn: a busy machine only ever
adds time, and less to the second. The aim is at most 1.5 for every command, judged by processor time.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import as_installed
from dataset_tools.cli import COMMANDS

BARE = '''
import typer

app = typer.Typer()


@app.command()
def first(source: str, limit: int = 3) -> None:
    """Do one thing."""


@app.command()
def second(source: str) -> None:
    """Do another."""


app()
'''
OURS = "from aspo_plugin.data_package import main; main()"
RUNS = 9


def seconds(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and processor time of one run."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command, check=True, capture_output=True, cwd=folder, env=as_installed(folder / "compiled")
    )
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def least(times: list[tuple[float, float]]) -> tuple[float, float]:
    """The least wall time and the least processor time."""
    return min(wall for wall, _ in times), min(processor for _, processor in times)


def main() -> int:
    """Print a table; 1 where a command is over the aim."""
    worst = 0.0
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bare.py").write_text(BARE)
        (folder / "ours.py").write_text(OURS)
        print(f"{'':<10}{'wall, s':>20}{'':8}{'processor, s':>20}")
        print(f"{'command':<10}{'bare':>10}{'ours':>10}{'ratio':>8}{'bare':>10}{'ours':>10}{'ratio':>8}")
        for command in ("", *COMMANDS):
            arguments = [command, "--help"] if command else ["--help"]
            bare, ours = [], []
            for _ in range(RUNS):
                bare.append(seconds([sys.executable, "bare.py", "first", "--help"], folder))
                ours.append(seconds([sys.executable, "ours.py", *arguments], folder))
            line = f"{command or '(none)':<10}"
            for a, b in zip(least(bare), least(ours), strict=True):
                line += f"{a:>10.3f}{b:>10.3f}{b / a:>8.2f}"
            print(line, flush=True)
            worst = max(worst, least(ours)[1] / least(bare)[1])
    print(f"worst {worst:.2f}, aim 1.50")
    return int(worst > 1.5)


if __name__ == "__main__":
    sys.exit(main())
