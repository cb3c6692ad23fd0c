"""Blocking calls off the event loop: bounded daemon threads under a deadline (design, rule 3)."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from rds_csi.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

# Threads at once. A thread stuck in the kernel (state D) keeps its place until the kernel lets it go.
DEFAULT_LIMIT = 32


class Workers:
    """Runs blocking functions, each in a thread of its own, at most ``limit`` at once.

    Daemon threads, unlike those of concurrent.futures: one that is stuck on a dead device must not keep the
    process from ending.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._places = asyncio.Semaphore(limit)
        self._busy_keys: set[str] = set()

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        """The result of ``function()``, or its exception.

        DeadlineExceeded after ``timeout`` seconds: the thread goes on alone. While a call with the same ``key``
        (a path, a volume id) has not come back, Unavailable at once: what is stuck is not poked again.
        Cancelled: the thread goes on alone.
        """
        if key and key in self._busy_keys:
            raise Unavailable(f"the last look at {key} has not come back: it is stuck in the kernel")
        try:
            async with asyncio.timeout(timeout):
                await self._places.acquire()
                return await asyncio.shield(self._start(function, key))
        except TimeoutError:
            raise DeadlineExceeded(f"{key or 'a blocking call'} did not come back within {timeout:g} s") from None

    def _start(self, function: Callable[[], T], key: str) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if key:
            self._busy_keys.add(key)

        def deliver(result: T | None, error: BaseException | None) -> None:
            self._places.release()
            self._busy_keys.discard(key)
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
                # Nobody may be waiting any more; then nobody is to be told.
                future.exception()
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = function()
            except BaseException as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(deliver, result, error)
            except RuntimeError:
                # The loop was closed meanwhile: the process is ending.
                return

        threading.Thread(target=work, name=f"worker {key}", daemon=True).start()
        return future
