"""Ctrl-C, SIGTERM and SIGHUP for a command that must clean up: the first one stops it, more of them change nothing."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# 128 and the signal's number, as a shell tells it.
_SHELL = 128


class Stopping:
    """For the block, in the loop's main task. ``signal`` is the number of the first one, 0 while there was none.

    A signal that is ignored already (nohup) stays so.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._task: asyncio.Task[Any] | None = None
        self._notice = ""
        self._caught: list[signal.Signals] = []

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._stop, number)
                self._caught.append(number)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number in self._caught:
            asyncio.get_running_loop().remove_signal_handler(number)

    @property
    def is_stopped(self) -> bool:
        """Whether there was a signal."""
        return self.signal != 0

    @property
    def status(self) -> int:
        """The exit status of a command that was stopped."""
        return _SHELL + self.signal

    async def run(self, work: Coroutine[Any, Any, T], notice: str) -> T | None:
        """What ``work`` returns, None when a signal ended it: it is cancelled once, and has all the time it wants.

        ``notice`` tells on stderr, at each signal, what is waited for; "" when nothing is. ``work`` may run a part of
        itself in the same way: a signal then ends that part alone.
        """
        stopped_before = self.signal
        if stopped_before:
            work.close()
            return None
        caller, self._notice = self._task, notice
        task = asyncio.ensure_future(work)
        self._task = task
        try:
            return await task
        except asyncio.CancelledError:
            if not self.is_stopped:
                raise
            return None
        finally:
            self._task, self._notice = caller, ""

    def _stop(self, number: signal.Signals) -> None:
        if self._notice:
            print(f"rds-csi: {self._notice}", file=sys.stderr, flush=True)
        if not self.signal:
            self.signal = number
            if self._task is not None:
                self._task.cancel()
