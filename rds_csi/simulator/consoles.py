"""The consoles of users: every exec, and every script over REST, has one of its own."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from rds_csi.simulator.console import Console
from rds_csi.simulator.console.scope import Cell
from rds_csi.simulator.device import Device
from rds_csi.simulator.menus.users import User


class Consoles:
    """Opens consoles of one device. The global variables of a user are the same in all of the user's consoles."""

    def __init__(
        self,
        device: Device,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._sleep = sleep
        self._now = now
        self._variables: dict[str, dict[str, Cell]] = {}

    def open(self, user: User) -> Console:
        """A new console of that user."""
        variables = self._variables.setdefault(user.name, {})
        return Console(self._device, user, variables=variables, sleep=self._sleep, now=self._now)

    def forget(self) -> None:
        """Global variables do not survive a reboot."""
        self._variables.clear()


# How RouterOS begins to say no. Only for the exit status of releases that tell failures by it.
_REFUSALS = (
    *("failure:", "bad command", "bad parameter", "syntax error", "expected ", "missing ", "no such ", "invalid "),
    *("input does not match", "ambiguous value", "value of ", "not enough permissions", "interrupted", "max line "),
)


def tells_failure(piece: str) -> bool:
    """Whether the last piece that an exec printed is a refusal."""
    return piece.startswith(_REFUSALS)
