"""The plan of scoring a large set with `aspo-data score --engine ray`, simulated.

    python -m benchmarks.cluster_plan --rows 100000000 --gpus 64 --rows-per-second 100 --price 2.5

The real loop that gives shards away (`dataset_tools.cluster.Cluster.spread`) runs against a cluster that is
pretended: every shard takes its rows divided by `--rows-per-second` of a GPU, give or take a fifth, and every
GPU is lost once in `--hours-between-losses`, with the shard that it had begun. Printed are what that comes
to, and what the loop itself took of the machine that it ran on. The rate and the price are yours to state:
`python benchmarks/score.py --device cuda` measures the first. Conversion is one machine's work; its rate is
that of `python -m benchmarks.convert` (20,000 rows in 20.98 s on two cores) unless you state another.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataset_tools.cluster import Cluster

MEASURED_CONVERSION = 20_000 / 20.98  # rows per second: docs/data.md, Long runs


class _Error(Exception):
    pass


class _Lost(_Error):
    pass


class PretendedRay:
    """As much of Ray as the loop asks for, with a clock of its own."""

    exceptions = SimpleNamespace(
        RayTaskError=type("_Never", (_Error,), {}),
        RayActorError=_Lost,
        WorkerCrashedError=_Lost,
        NodeDiedError=_Lost,
        RayError=_Error,
    )

    def __init__(self, gpus: int, seconds: float, between_losses: float, seed: int) -> None:
        self.gpus, self.seconds, self.between_losses = gpus, seconds, between_losses
        self.clock, self.busy, self.tasks, self.losses = 0.0, 0.0, 0, 0
        self._numbers = 0
        self._chance = random.Random(seed)
        self._due: list[tuple[float, int, bool]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"GPU": self.gpus, "CPU": self.gpus}}]

    def remote(self, **options: Any) -> Any:
        call = SimpleNamespace(
            ready=SimpleNamespace(remote=self._start), call=SimpleNamespace(remote=self._begin)
        )
        return lambda worker: SimpleNamespace(remote=lambda: call)

    def _start(self) -> int:
        self._numbers += 1
        heapq.heappush(self._due, (self.clock, self._numbers, False))
        return self._numbers

    def _begin(self, piece: str) -> int:
        took = self.seconds * self._chance.uniform(0.8, 1.2)
        loss = self._chance.expovariate(1 / self.between_losses)
        self.tasks += 1
        self.busy += min(took, loss)
        self._numbers += 1
        heapq.heappush(self._due, (self.clock + min(took, loss), self._numbers, loss < took))
        return self._numbers

    def wait(self, references: list[int], num_returns: int) -> tuple[list[int], list[int]]:
        self.clock, task, self._ended = heapq.heappop(self._due)
        return [task], []

    def get(self, reference: int) -> int:
        if self._ended:
            self.losses += 1
            raise _Lost("its machine was lost")
        return 1

    def kill(self, actor: Any) -> None:
        pass


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--shard-rows", type=int, default=5000, help="as of convert")
    parser.add_argument("--gpus", type=int, default=64)
    parser.add_argument("--rows-per-second", type=float, required=True, help="that one GPU scores")
    parser.add_argument("--price", type=float, required=True, help="of a GPU for an hour")
    parser.add_argument("--hours-between-losses", type=float, default=24.0, help="of one GPU")
    parser.add_argument("--convert-rows-per-second", type=float, default=MEASURED_CONVERSION)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shards = -(-given.rows // given.shard_rows)
    seconds = given.shard_rows / given.rows_per_second
    ray = PretendedRay(given.gpus, seconds, given.hours_between_losses * 3600, given.seed)
    names = (f"/shared/set/data/train-{number:05}-of-{shards:05}.parquet" for number in range(shards))
    tracemalloc.start()
    began = time.process_time()
    done = sum(Cluster(ray).spread(lambda: lambda piece: 1, names))
    took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    assert done == shards
    hours, paid = ray.clock / 3600, given.gpus * ray.clock / 3600
    print(f"{given.rows:,} rows in {shards:,} shards of {given.shard_rows:,}, {given.gpus} GPUs")
    print(f"convert  {given.rows / given.convert_rows_per_second / 3600:8.1f} h on one machine")
    print(f"score    {hours:8.1f} h, {ray.tasks:,} shards begun, {ray.losses:,} of them lost with their GPU")
    print(f"         {ray.busy / 3600 / paid:8.1%} of {paid:,.0f} GPU hours at work")
    print(f"cost     {paid * given.price / given.rows * 1e6:8.2f} for a million rows scored")
    print(f"driver   {peak / 2**20:8.1f} MiB and {took:.1f} s of processor time to give the shards away")


if __name__ == "__main__":
    main()
