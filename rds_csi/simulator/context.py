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
# What /ip/service calls the servers.
_SERVICES = {"ssh": "ssh", "https": "www-ssl"}


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
    boot: int = 0
    """How many reboots have begun: what was asked for before one is not done after it."""
    _down: int = field(default=0)

    @property
    def rebooting(self) -> bool:
        """Whether at least one reboot has begun and not ended."""
        return self._down > 0

    def goes_down(self) -> None:
        """A reboot begins; several may overlap."""
        self.boot += 1
        self._down += 1

    def comes_up(self) -> None:
        """One of them has ended."""
        self._down -= 1

    def admits(self, server: str, peer: str, open_connections: int) -> bool:
        """Whether a new connection to ``server`` ("ssh", "https") from the IP address ``peer`` stays."""
        struck = self.faults.strike(Stage.CONNECT, server)
        service = self.device.services
        name = _SERVICES[server]
        welcome = service.lets_in(name, peer) and open_connections < service.max_sessions(name)
        if self.rebooting or not welcome or FaultKind.SESSIONS_EXHAUSTED in struck:
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
