"""Blocking calls off the event loop: bounded daemon threads under a deadline (design, rule 3)."""

import asyncio
import contextvars
import threading
from collections import Counter
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
        # Calls whose caller has given up waiting, and which have not come back, by key.
        self._stuck: Counter[str] = Counter()

    async def run(self, function: Callable[[], T], *, timeout: float, key: str = "") -> T:
        """The result of ``function()``, or its exception.

        DeadlineExceeded after ``timeout`` seconds: the thread goes on alone, as it does when the caller is
        cancelled. Until it has come back, another call with the same ``key`` (a path, a volume id) is
        Unavailable at once: what is stuck is not poked again.
        """
        if key and self._stuck[key]:
            raise Unavailable(f"the last look at {key} has not come back: it is stuck in the kernel")
        future: asyncio.Future[T] | None = None
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                await self._places.acquire()
                future = self._start(function, key)
                return await asyncio.shield(future)
        except TimeoutError:
            if not scope.expired():
                # The function's own: ETIMEDOUT of a mount or device whose other end is away.
                raise
            raise DeadlineExceeded(f"{key or 'a blocking call'} did not come back within {timeout:g} s") from None
        finally:
            if future is not None and not future.done():
                self._stuck[key] += 1
                future.add_done_callback(lambda _: self._came_back(key))

    def _came_back(self, key: str) -> None:
        self._stuck[key] -= 1
        if not self._stuck[key]:
            del self._stuck[key]

    def _start(self, function: Callable[[], T], key: str) -> "asyncio.Future[T]":
        """Start the thread in the place that was acquired; it gives the place back when it ends."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # The thread's log lines carry the id of the call that it works for.
        context = contextvars.copy_context()

        def deliver(result: T | None, error: BaseException | None) -> None:
            self._places.release()
            if error is not None:
                future.set_exception(error)
                # Nobody may be waiting any more; then nobody is to be told.
                future.exception()
            else:
                future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = context.run(function)
            except StopIteration as caught:
                # No future takes this one (PEP 479): the caller would wait for its deadline.
                error = RuntimeError(f"StopIteration in a worker: {caught}")
            except BaseException as caught:
                error = caught
            try:
                loop.call_soon_threadsafe(deliver, result, error)
            except RuntimeError:
                # The loop was closed meanwhile: the process is ending.
                return

        try:
            threading.Thread(target=work, name=f"worker {key}", daemon=True).start()
        except BaseException:
            # RuntimeError: the machine gives no more threads.
            self._places.release()
            future.cancel()
            raise
        return future
