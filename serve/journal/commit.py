"""Group commit: many waiting writers, one transaction, on a thread of its own."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Job = TypeVar("Job")

MAX_GROUP = 512
"""Jobs of one transaction: bounds how long the first of a burst waits for the last."""


class GroupCommit(Generic[Job]):
    """Runs jobs in transactions; a job's result is handed out once its transaction is on disk.

    What arrives while a transaction runs is the next group, so that one commit serves all who wait and a lone
    writer waits for nobody.

    Args:
        transact: runs a group of jobs in one transaction and returns a result for each; what it raises is the
            answer to all of them. Called on the thread alone.
        name: of the thread.
    """

    def __init__(self, transact: Callable[[list[Job]], list[Any]], name: str) -> None:
        self._transact = transact
        self._waiting: queue.SimpleQueue[tuple[Job, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def submit(self, job: Job) -> Any:
        """Return the job's result once it is durable.

        Raises:
            RuntimeError: closed.
        """
        self._check_open()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.put((job, future))
        return await future

    def close(self) -> None:
        """Finish what waits and stop. Harmless when called again."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            self._thread.join()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the journal is closed")

    def _run(self) -> None:
        last = False
        while not last:
            group = [self._waiting.get()]
            while len(group) < MAX_GROUP:
                try:
                    group.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            last = None in group
            waiting = [entry for entry in group if entry is not None]
            if waiting:
                self._answer(waiting)

    def _answer(self, waiting: list[tuple[Job, asyncio.Future[Any]]]) -> None:
        futures = [future for _, future in waiting]
        try:
            results: list[Any] = self._transact([job for job, _ in waiting])
            failure = None
        except Exception as error:
            results, failure = [None] * len(futures), error
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = defaultdict(list)
        for future, result in zip(futures, results):
            by_loop[future.get_loop()].append((future, result))
        for loop, answers in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_resolve, answers, failure)


def _resolve(answers: list[tuple[asyncio.Future[Any], Any]], failure: Exception | None) -> None:
    for future, result in answers:
        if future.done():  # who waited has gone; the work is done all the same
            continue
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)
