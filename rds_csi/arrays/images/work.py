"""Blocking steps run for asyncio: in a worker, under a deadline, to their end, with progress in the log."""

import asyncio
import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from rds_csi.arrays.images.copying import Progress
from rds_csi.arrays.images.faults import fault
from rds_csi.model.sizes import MIB
from rds_csi.tasks import finish
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

T = TypeVar("T")

# For one blocking step: a few files, or copying.STEP_BYTES of data, on a slow disk.
STEP_SECONDS = 60.0
# How often a long copy tells how far it is.
PROGRESS_SECONDS = 10.0


class Work:
    """Runs the steps of one directory. A step whose last one for the same key is stuck is not started."""

    def __init__(self, workers: Workers, directory: str) -> None:
        self._workers = workers
        self._directory = directory

    async def run(self, step: Callable[[], T], what: str, key: str = "", timeout: float = STEP_SECONDS) -> T:
        """The result of a step; what the operating system refused becomes the driver's error."""
        try:
            return await self._workers.run(step, timeout=timeout, key=f"{key} in {self._directory}" if key else "")
        except OSError as error:
            raise fault(error, what) from error

    async def finish(self, step: Callable[[], T], what: str, key: str) -> T:
        """Like ``run``, but a cancelled caller waits for the end: for what changes files."""
        return await finish(self.run(step, what, key))

    async def drive(self, steps: Generator[Progress, None, T], what: str, key: str) -> T:
        """The result of many steps. Each has the deadline, not the whole: a copy takes as long as its data needs.
        A cancelled caller waits for the end."""
        return await finish(self._drive(steps, what, key))

    async def _drive(self, steps: Generator[Progress, None, T], what: str, key: str) -> T:
        loop = asyncio.get_running_loop()
        told = loop.time()
        while True:
            outcome = await self.run(partial(_advance, steps), what, key)
            if isinstance(outcome, _End):
                return outcome.value
            if loop.time() - told >= PROGRESS_SECONDS:
                told = loop.time()
                _log.info("%s: %d of %d MiB", what, outcome.done // MIB, outcome.total // MIB)


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    """What a generator of steps returned."""

    value: T


def _advance(steps: Generator[Progress, None, T]) -> Progress | _End[T]:
    try:
        return next(steps)
    except StopIteration as end:
        return _End(end.value)
