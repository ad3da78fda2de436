"""Work on a Ray cluster: what a lost node or a killed worker was doing is given to another one.

Only work whose repetition changes nothing is given away: to score or to make one parquet file, which gets its
name when it is done. So the result is that of one machine, byte for byte, however often a piece was begun.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from dataset_tools.errors import DataError, UsageError

Piece = TypeVar("Piece", bound=Hashable)
Result = TypeVar("Result")
TRIES = 4
"""How often a piece is begun before it is taken for what ends the workers."""


class Cluster:
    """A connection to a running cluster; `connected` makes one."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def told(self) -> str:
        """What it has, in one line."""
        has = self._ray.cluster_resources()
        parts = [f"{len(self._nodes())} nodes", f"{has.get('CPU', 0):g} CPUs", f"{has.get('GPU', 0):g} GPUs"]
        return ", ".join(parts)

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def spread(
        self,
        worker: Callable[[], Callable[[Piece], Result]],
        pieces: Iterable[Piece],
        on_each_cpu: bool = False,
    ) -> Iterator[Result]:
        """What a worker's call gives for each piece, in the order in which they are done.

        `worker()` is made once for each GPU of the cluster, or for each node where there is none, or
        `on_each_cpu`, and then called with one piece after the other. Raises what a call raised, and
        `DataError` where a piece took its worker with it too often, or no worker lived to get one.
        """
        ray = self._ray
        waiting, begun = deque(pieces), Counter[Piece]()
        make, count = self._workers(worker, on_each_cpu)
        starting: dict[Any, Any] = {}
        running: dict[Any, tuple[Any, Piece]] = {}
        lost_at_start = 0

        def start() -> None:
            actor = make()
            starting[actor.ready.remote()] = actor

        def give(actor: Any) -> None:
            """A worker gets a piece once it runs: one may wait for hours until there is a place for it."""
            if not waiting:  # its place may be what the successor of a lost one waits for
                ray.kill(actor)
                return
            piece = waiting.popleft()
            begun[piece] += 1
            running[actor.call.remote(piece)] = actor, piece

        try:
            for _ in range(min(count, len(waiting))):
                start()
            while waiting or running:
                [done], _ = ray.wait([*running, *starting], num_returns=1)
                actor, piece = running.pop(done, None) or (starting.pop(done), None)
                try:
                    result = self._result(done)
                except _Lost as lost:
                    if piece is None:
                        lost_at_start += 1
                        if lost_at_start >= TRIES * count:
                            raise DataError(f"no worker could be started: {lost}") from None
                    elif begun[piece] >= TRIES:
                        raise DataError(f"{piece} was begun {TRIES} times and {lost}") from None
                    else:
                        waiting.appendleft(piece)
                    if waiting:
                        start()
                    continue
                give(actor)
                if piece is None:
                    lost_at_start = 0
                else:
                    yield result
        finally:
            for actor in [*starting.values(), *(actor for actor, _ in running.values())]:
                ray.kill(actor)

    def _workers(
        self, worker: Callable[[], Callable[[Any], Any]], on_each_cpu: bool
    ) -> tuple[Callable[[], Any], int]:
        """What makes a worker on the cluster, and how many there are to be."""
        nodes = [node["Resources"] for node in self._nodes()]
        gpus = 0 if on_each_cpu else int(sum(node.get("GPU", 0) for node in nodes))
        cpus = 1 if on_each_cpu else int(min((node["CPU"] for node in nodes if node.get("CPU")), default=1))
        needs = {"num_gpus": 1} if gpus else {"num_cpus": cpus}  # one, or a node's all: one worker on each

        class Worker:
            def __init__(self) -> None:
                self._call = worker()

            def ready(self) -> None:
                pass

            def call(self, piece: Any) -> Any:
                return self._call(piece)

        remote = self._ray.remote(max_restarts=0, scheduling_strategy="SPREAD", **needs)(Worker)
        if on_each_cpu:
            return remote.remote, int(sum(node.get("CPU", 0) for node in nodes))
        return remote.remote, gpus or sum(node.get("CPU", 0) >= cpus for node in nodes)

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        except (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError) as error:
            raise _Lost(_in_one_line(error)) from None
        except errors.RayError as error:
            raise DataError(f"Ray could not do a piece of the work: {_in_one_line(error)}") from None


class _Lost(DataError):
    """The worker ended, or its node did."""

    def __init__(self, what: str) -> None:
        super().__init__(f"lost each time with its worker or node: {what}")


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _started_here() -> str | None:
    """The address of the cluster that `ray start` began on this machine, alive or not."""
    noted = Path(os.environ.get("RAY_TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    return noted.read_text().strip() if noted.is_file() else None


def _reach(address: str) -> None:
    """Raises `OSError` where nothing listens: Ray tries for a minute, and then ends this process."""
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def connected(address: str | None) -> Iterator[Cluster]:
    """The cluster at `address` (host:port or ray://...), or that of RAY_ADDRESS, or the one on this machine.

    Raises `UsageError` where there is none, or Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ModuleNotFoundError:
        raise UsageError(
            "--engine ray needs Ray, not installed here: pip install 'aspo-plugin[ray]'."
        ) from None
    where = address or os.environ.get("RAY_ADDRESS") or _started_here() or "auto"
    try:
        _reach(where)
        ray.init(address=where, logging_level="ERROR", log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"no Ray cluster answers at {where} ({_in_one_line(error)}): start one with `ray start --head`, "
            "or give --address."
        ) from None
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()
