"""Places for connects: at most N at once in this process, the others in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rds_csi.connectors.budget import budget
from rds_csi.errors import Unavailable
from rds_csi.metrics import Metrics
from rds_csi.progress import note

# Seconds. Longer than every connect of a burst takes; a caller's deadline comes first.
WAIT_SECONDS = 300.0


class ConnectPlaces:
    """Handed out first come, first served; a caller who is cancelled leaves the queue."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._free = asyncio.Semaphore(limit)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place for the block. Unavailable when none comes free before the caller's deadline."""
        await self._acquire()
        try:
            with self._metrics.connects_running.track_inprogress():
                yield
        finally:
            self._free.release()

    async def _acquire(self) -> None:
        if self._free.locked():
            note(f"waiting for a place among {self._limit} connects")
        try:
            with self._metrics.connects_waiting.track_inprogress():
                async with asyncio.timeout(budget(WAIT_SECONDS)):
                    await self._free.acquire()
        except TimeoutError:
            raise Unavailable(
                f"no place among {self._limit} connects came free in time",
                remedy="Other portals are slow; see rds-csi status, and raise --max-connects if they are many.",
            ) from None
