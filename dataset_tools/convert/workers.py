"""A function applied to a stream in several processes, results in order, nothing left behind.

Not `multiprocessing.Pool`: its workers outlive a parent killed with -9, and a worker killed for memory
leaves the parent waiting for ever. Here each worker hangs on one pipe, and either end notices when the
other is gone.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from dataset_tools.dataset.arrow import settle_pandas
from dataset_tools.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[tuple[Item, Any]],
    workers: int,
    ahead: int | None = None,
) -> Generator[tuple[Item, Any, Result], None, None]:
    """`(item, kept, function(item))` for each `(item, kept)`, in order; `kept` stays in this process.

    `function` and the items are pickled. With one worker everything runs here. At most `ahead` items (twice
    the workers, if not given) are under way. A worker that dies raises `DataError`.
    """
    if workers <= 1:
        for item, kept in items:
            yield item, kept, function(item)
        return
    pool = _Pool(function, workers)
    pending: deque[tuple[Item, Any, Future[Result]]] = deque()
    try:
        for item, kept in items:
            pending.append((item, kept, pool.submit(item)))
            if len(pending) > (ahead or 2 * workers):
                item, kept, future = pending.popleft()
                yield item, kept, future.result()
        while pending:
            item, kept, future = pending.popleft()
            yield item, kept, future.result()
    finally:
        pool.close()


def one_ahead(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The items, each made in a thread while the one before it is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as thread:
        coming: Future[Any] = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item


class _Pool:
    """One thread for each worker process: it hands over an item and waits for the result."""

    def __init__(self, function: Callable[[Any], Any], workers: int):
        # Not fork: a forked worker would hold the other pipes open and never see their ends.
        self._context = multiprocessing.get_context("spawn")
        self._function = function
        self._own = threading.local()
        self._processes: list[Any] = []
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def _start(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._function), daemon=True)
        if hasattr(signal, "pthread_sigmask"):
            # Ctrl-C is the parent's business, also while a worker starts: it inherits this thread's mask.
            resource_tracker.ensure_running()  # which unblocks the signal when it starts
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        process.start()
        there.close()
        self._processes.append(process)
        self._own.process, self._own.pipe = process, here

    def submit(self, item: Any) -> Future[Any]:
        return self._threads.submit(self._call, item)

    def _call(self, item: Any) -> Any:
        if not hasattr(self._own, "pipe"):
            try:
                self._start()
            except OSError as error:
                raise DataError(
                    f"a worker process cannot be started ({error.strerror or error}): use fewer --workers."
                ) from None
        try:
            self._own.pipe.send(item)
            failed, value = self._own.pipe.recv()
        except (EOFError, OSError):
            self._own.process.join(5)
            raise DataError(
                f"a worker process ended with exit code {self._own.process.exitcode}; "
                "-9 usually means that memory ran out: use fewer --workers."
            ) from None
        if failed:
            raise value
        return value

    def close(self) -> None:
        """End all workers, also in the middle of an item."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where no mask could be inherited
    settle_pandas(without=True)
    while True:
        try:
            item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = (False, function(item))
        except Exception as error:
            answer = (True, error)
        try:
            pipe.send(answer)
        except OSError:
            return
