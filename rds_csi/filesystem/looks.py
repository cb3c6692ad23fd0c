"""Looks at paths that can stick in the kernel: one at a time for each path, shared by all who ask meanwhile."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from rds_csi.workers import Workers

T = TypeVar("T")


class Looks(Generic[T]):
    """One kind of look. Statistics, health and a publish may ask for one path at once: they share the answer.
    A path whose last look has not come back in time is not looked at again (Unavailable) until it has."""

    def __init__(self, workers: Workers, kind: str, timeout: float) -> None:
        self._workers = workers
        self._kind = kind
        self._timeout = timeout
        self._running: dict[str, asyncio.Task[T]] = {}

    async def look(self, path: str, function: Callable[[], T]) -> T:
        """What ``function``, a look at ``path``, gives; its errors, or those of ``Workers.run``."""
        task = self._running.get(path)
        if task is None:
            key = f"{self._kind} {path}"
            task = asyncio.create_task(self._workers.run(function, timeout=self._timeout, key=key), name=key)
            self._running[path] = task
            task.add_done_callback(lambda done: self._end(path, done))
        return await asyncio.shield(task)

    def _end(self, path: str, task: asyncio.Task[T]) -> None:
        del self._running[path]
        if not task.cancelled():
            # Whoever asked may have been cancelled: then nobody is to be told of the failure.
            task.exception()
