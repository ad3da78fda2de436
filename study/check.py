"""`make study-check`: fails where a change of the loss loses the gain of the similarity weights over DPO.

    python -m study.check

In the world taught beforehand, at temperature 1: ASPO at alpha 1 says fewer false sentences than DPO and than
random weights, by more than the margins below, on the mean of the seeds.
"""

from __future__ import annotations

import sys

import torch

from .pairs import load
from .runs import PAIRS, Setting
from .teach import TAUGHT
from .train import Budget

SEEDS = (11, 12)
# Points that the gain must keep.
LEAST = {"dpo": 1.0, "random weights": 1.0}


def main() -> None:
    torch.set_num_threads(1)
    world = load(TAUGHT)
    false: dict[str, list[float]] = {name: [] for name in ("aspo 1", *LEAST)}
    for seed in SEEDS:
        setting = Setting(world, 999, "seva", seed, "validation", PAIRS)
        for name, values in false.items():
            values.append(100 * setting.run(name, Budget())["measures"]["1"]["false"])
            print(f"seed {seed}  {name:<15} {values[-1]:.1f}% false", flush=True)
    mean = {name: sum(values) / len(values) for name, values in false.items()}
    failed = [name for name, least in LEAST.items() if mean[name] - mean["aspo 1"] < least]
    for name in LEAST:
        print(f"aspo 1 against {name}: {mean['aspo 1'] - mean[name]:+.1f} points")
    if failed:
        sys.exit(f"the gain of ASPO at alpha 1 over {', '.join(failed)} is lost")


if __name__ == "__main__":
    main()
