"""Tasks that a server has started and that end with it."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Background:
    """The running tasks of one server."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def spawn(self, work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
        """Start it; a failure that nobody waits for is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> None:
        """Cancel everything but the task that asks for it."""
        for task in tuple(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()

    async def close(self) -> None:
        """Cancel everything, and see it ended."""
        while self._tasks:
            self.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the simulator failed", exc_info=error)
