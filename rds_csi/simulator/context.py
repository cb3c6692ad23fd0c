"""What the servers of one simulator share."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from rds_csi.simulator.conditions import Conditions
from rds_csi.simulator.consoles import Consoles
from rds_csi.simulator.counters import Counters
from rds_csi.simulator.device import Device
from rds_csi.simulator.faults import FaultKind, Faults, Stage, Struck

NOT_PERMITTED = "not enough permissions (9)"


class NotDone(Exception):
    """The request was not done, and is not answered: the connection breaks."""


@dataclass(slots=True)
class Context:
    """One device, its faults and what is counted; ``reboot`` takes the seconds for which nobody is let in."""

    device: Device
    consoles: Consoles
    faults: Faults
    conditions: Conditions
    counters: Counters
    reboot: Callable[[float], None]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rebooting: bool = field(default=False)

    def admits(self, server: str, open_connections: int, max_sessions: int) -> bool:
        """Whether a new connection to ``server`` ("ssh", "https") stays."""
        struck = self.faults.strike(Stage.CONNECT, server)
        if self.rebooting or open_connections >= max_sessions or FaultKind.SESSIONS_EXHAUSTED in struck:
            self.counters.refused += 1
            return False
        return True

    async def arrived(self, request: str) -> Struck:
        """The faults that strike the request, after those that come before it is done; NotDone ends it here."""
        struck = self.faults.strike(Stage.REQUEST, request)
        if FaultKind.DROP_BEFORE in struck:
            raise NotDone
        if reboot := struck.get(FaultKind.REBOOT):
            self.reboot(reboot.seconds)
            raise NotDone
        if slow := struck.get(FaultKind.SLOW):
            await self.sleep(slow.seconds)
        return struck
