"""The plan of converting and scoring a large set with `--engine ray`, simulated.

    python -m benchmarks.cluster_plan --rows 100000000 --gpus 64 --rows-per-second 100 --price 2.5

The real loop that gives shards away (`dataset_tools.cluster.Cluster.spread`) runs against a cluster that is
pretended: every piece takes its rows divided by the rate of a CPU or GPU, give or take a fifth, and each of
those is lost once in `--hours-between-losses`, with the piece that it had begun. Printed are what that comes
to, and what the loop itself took of the machine that it ran on. The rate of a GPU and its price are yours to
state: `python benchmarks/score.py --device cuda` measures the first. The rates of conversion are those that
`python -m benchmarks.convert pieces` printed, unless you state others.
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

# Rows per second of a process, as `benchmarks.convert pieces` printed.
PARTS, SHARDS, SETTLED = 446, 936, 43_265


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
    parser.add_argument("--cpus", type=int, default=512, help="that convert")
    parser.add_argument("--parts-per-second", type=float, default=PARTS, help="rows that one CPU reads")
    parser.add_argument("--shards-per-second", type=float, default=SHARDS, help="rows that one CPU writes")
    parser.add_argument("--settled-per-second", type=float, default=SETTLED, help="rows, in the driver")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    shards = -(-given.rows // given.shard_rows)
    losses = given.hours_between_losses * 3600
    hours = given.rows / given.settled_per_second / 3600
    lost = 0
    for rate in (given.parts_per_second, given.shards_per_second):
        ray = PretendedRay(given.cpus, given.shard_rows / rate, losses, given.seed)
        assert sum(Cluster(ray).spread(lambda: lambda piece: 1, range(shards), on_each_cpu=True)) == shards
        hours, lost = hours + ray.clock / 3600, lost + ray.losses
    ray = PretendedRay(given.gpus, given.shard_rows / given.rows_per_second, losses, given.seed)
    names = (f"/shared/set/data/train-{number:05}-of-{shards:05}.parquet" for number in range(shards))
    tracemalloc.start()
    began = time.process_time()
    done = sum(Cluster(ray).spread(lambda: lambda piece: 1, names))
    took, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    assert done == shards
    paid = given.gpus * ray.clock / 3600
    print(f"{given.rows:,} rows in {shards:,} shards of {given.shard_rows:,}, {given.gpus} GPUs")
    print(f"convert  {hours:8.1f} h on {given.cpus} CPUs, {lost:,} pieces lost with theirs, of which")
    print(f"         {given.rows / given.settled_per_second / 3600:8.1f} h in which the driver settles ids")
    begun = f"{ray.tasks:,} shards begun, {ray.losses:,} of them lost with their GPU"
    print(f"score    {ray.clock / 3600:8.1f} h, {begun}")
    print(f"         {ray.busy / 3600 / paid:8.1%} of {paid:,.0f} GPU hours at work")
    print(f"cost     {paid * given.price / given.rows * 1e6:8.2f} for a million rows scored")
    print(f"driver   {peak / 2**20:8.1f} MiB and {took:.1f} s of processor time to give the shards away")


if __name__ == "__main__":
    main()
