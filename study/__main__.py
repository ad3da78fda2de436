"""The whole study: worlds, a search on a world of its own, runs, and the page.

python -m study            everything (hours on one core)
python -m study --quick    one habit world, three seeds, no search: minutes, and what docs/study.md says it is
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from . import report
from .check import TAUGHT
from .run import job, run_jobs, search
from .train import METHODS, Budget

OUT = Path(".artifacts/study")
# Number of the world that is searched in, worlds that are tested in, share of captions with the habit.
WORLDS = {"habit": (200, range(201, 209), 0.6), "plain": (100, range(1, 9), 0.0)}
# The quick way: the world taught beforehand, pairs and a learning rate that were set, not searched.
QUICK = (
    *("dpo", "aspo 0", "aspo 0.5", "aspo 1", "random weights", "true weights"),
    *("centred 1", "centred_bounded 1"),
)
QUICK_SEEDS, QUICK_PAIRS, QUICK_RATE, QUICK_BETA = (0, 1, 2), 512, 5e-4, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = Path(__file__).parent / "runs.jsonl"
    if options.quick:
        jobs = [
            job(200, "seva", seed, method, "test", QUICK_RATE, QUICK_BETA)
            for seed in QUICK_SEEDS
            for method in ("base", *QUICK)
        ]
        place = options.out / "world-200"
        if not place.exists():
            shutil.copytree(TAUGHT, place)
        run_jobs(jobs, options.out, runs, WORLDS["habit"][2], QUICK_PAIRS)
    else:
        for searched, worlds, habit in WORLDS.values():
            best = search(options.out, runs, searched, "seva", list(METHODS), habit)
            jobs = [
                job(world, "seva", 0, method, "test", *best.get(method, (Budget.learning_rate, Budget.beta)))
                for world in worlds
                for method in ("base", *METHODS)
            ]
            run_jobs(jobs, options.out, runs, habit)
    report.write(runs)


if __name__ == "__main__":
    main()
