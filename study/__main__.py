"""The study: worlds, a search on a world of its own, runs, and the page.

python -m study            everything (days of one core); stopped, it goes on where it was
python -m study --quick    one habit world that comes with the project, three seeds
python -m study --only 2   the first two parts of the plan
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import report
from .runs import SEARCHED, job, run_jobs, search, world_at
from .teach import TAUGHT
from .train import METHODS

OUT = Path(".artifacts/study")
RUNS = Path(__file__).parent / "runs.jsonl"
# What the first parts compare, and what others compare beside it.
MAIN = ("dpo", "aspo 1", "aspo 0.5", "aspo 0", "random weights", "true weights")
BEYOND = (
    *("centred 1", "rejected weighted 1", "centred 1, scale 1"),
    *("centred 0.5", "rejected weighted 0.5", "centred_bounded 1"),
)
# Share of captions with the habit.
HABIT, PLAIN = 0.6, 0.0


@dataclass(frozen=True)
class Part:
    """Every method on every world, one seed each."""

    habit: float
    worlds: Sequence[int]
    source: str = "seva"
    methods: Sequence[str] = MAIN


# The most telling first: a study that is stopped has compared something.
FIRST = (3, 1, 2, 4)
PLAN = (
    *(
        part
        for world in FIRST
        for part in (Part(HABIT, [200 + world], methods=(*MAIN, *BEYOND[:2])), Part(PLAIN, [world]))
    ),
    Part(PLAIN, FIRST, methods=("dpo", *BEYOND[:2])),
    Part(PLAIN, FIRST, "long chosen"),
    Part(HABIT, [200 + world for world in FIRST], "seva, 25% swapped"),
    Part(PLAIN, FIRST, "ranked"),
    Part(HABIT, range(205, 209), methods=(*MAIN, *BEYOND[:2])),
    Part(PLAIN, range(5, 9), methods=(*MAIN, *BEYOND[:2])),
    Part(HABIT, range(201, 209), methods=tuple(METHODS)),
    Part(PLAIN, range(1, 9), methods=tuple(METHODS)),
    Part(HABIT, range(201, 209), "seva, 50% swapped"),
    Part(HABIT, range(201, 209), "ranked"),
    Part(HABIT, range(201, 209), "long chosen"),
)
QUICK_SEEDS = (0, 1, 2)


def found(methods: Sequence[str], out: Path) -> dict[str, Any]:
    """Learning rate and beta of each method: the same search for all, on SeVa pairs of the habit world."""
    taught = out / f"world-{SEARCHED}"
    if not taught.exists():
        shutil.copytree(TAUGHT, taught)
    return search(out, RUNS, SEARCHED, "seva", list(methods), HABIT)


def quick(out: Path) -> None:
    """Seeds of the world that comes with the project, none of them the search's."""
    best = found(MAIN, out)
    jobs = [
        job(SEARCHED, "seva", seed, method, "test", *best.get(method, ()))
        for seed in QUICK_SEEDS
        for method in ("base", *MAIN)
    ]
    run_jobs(jobs, out, RUNS, HABIT)


def run_part(part: Part, out: Path) -> None:
    """World by world, so that what is there can be paired."""
    best = found(part.methods, out)
    for world in part.worlds:
        world_at(out, world, part.habit)
        jobs = [
            job(world, part.source, 0, method, "test", *best.get(method, ()))
            for method in ("base", *part.methods)
        ]
        run_jobs(jobs, out, RUNS, part.habit)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--only", type=int, default=len(PLAN), metavar="N", help="the first N parts of the plan"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the taught worlds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.quick:
        quick(options.out)
    else:
        for part in PLAN[: options.only]:
            run_part(part, options.out)
    report.write(RUNS)


if __name__ == "__main__":
    main()
