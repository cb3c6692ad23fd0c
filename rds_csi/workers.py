"""Blocking calls off the event loop: bounded daemon threads under a deadline (design, rule 3)."""

import asyncio
import contextlib
import contextvars
import threading
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TypeVar

from rds_csi.errors import DeadlineExceeded, Unavailable

T = TypeVar("T")

# Threads at once. A thread stuck in the kernel (state D) keeps its place until the kernel lets it go.
DEFAULT_LIMIT = 32
# How long a thread without a job is kept: beyond the pauses within one call, below those between calls.
_IDLE_SECONDS = 5.0


class Workers:
    """Runs blocking functions, each in a thread for itself, at most ``limit`` at once.

    Daemon threads, unlike those of concurrent.futures: one that is stuck on a dead device must not keep the
    process from ending.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self._places = asyncio.Semaphore(limit)
        # Calls whose caller has given up waiting, and which have not come back, by key.
        self._stuck: Counter[str] = Counter()
        # Threads without a job, the last used one last; append and pop are atomic.
        self._idle: list[_Thread] = []

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
                future = self._start(function)
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

    def _start(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Start the work in the place that was acquired; it gives the place back when it ends."""
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
            # Before the result is told: whoever asks next finds this thread idle.
            self._idle.append(thread)
            with contextlib.suppress(RuntimeError):
                # The loop may have been closed meanwhile: the process is ending.
                loop.call_soon_threadsafe(deliver, result, error)

        try:
            try:
                thread = self._idle.pop()
            except IndexError:
                # None is idle, or the last one has just ended.
                thread = _Thread(self._idle)
            thread.jobs.put(work)
        except BaseException:
            # RuntimeError: the machine gives no more threads.
            self._places.release()
            future.cancel()
            raise
        return future


class _Thread:
    """A thread that takes one job after the other, as starting one takes longer than most jobs; it ends when it
    has been among the ``idle`` ones for a while."""

    def __init__(self, idle: "list[_Thread]") -> None:
        self.jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = idle
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=_IDLE_SECONDS)
            except Empty:
                with contextlib.suppress(ValueError):
                    self._idle.remove(self)
                    return
                # Taken out of the list just now: a job is on its way.
                continue
            job()
