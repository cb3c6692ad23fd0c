"""A clock whose time passes only by sleeping, and at once."""

import asyncio
from collections.abc import Callable

from rds_csi.retry import Clock


class FakeClock:
    """``clock`` is what is injected; ``seconds`` is the time, ``pauses`` every sleep that was asked for.

    ``at_first_pause`` is called once, when somebody waits for the first time: what happens in the meantime.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []
        self.at_first_pause: Callable[[], object] = lambda: None
        self.clock = Clock(now=lambda: self.seconds, sleep=self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds
        if len(self.pauses) == 1:
            self.at_first_pause()
        await asyncio.sleep(0)
