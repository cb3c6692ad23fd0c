"""One run of a script: what it may use of the outside, what it prints, and how many steps it may take."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from rds_csi.simulator.console.menu_commands import MenuCommands
from rds_csi.simulator.console.scope import Cell
from rds_csi.simulator.versions import Version

# Statements and turns of loops in one run; a device has no such limit, its operator's patience has.
MAX_STEPS = 1_000_000
# Steps between two chances for other tasks (and for a cancellation).
_BREATH = 200
_BREATH_SECONDS = 0.005
_LINE_END = re.compile(r"\r?\n")


class Output:
    """What a script prints: lines that end with CRLF."""

    def __init__(self, write: Callable[[str], Awaitable[None]]) -> None:
        self._write = write

    async def say(self, text: str) -> None:
        """Prints whole lines."""
        await self._write((_LINE_END.sub("\r\n", text) if "\n" in text else text) + "\r\n")


class Interrupted(Exception):
    """The run took too many steps; no script can catch this."""


class Jobs(Protocol):
    """Who runs scripts in the background."""

    async def start(self, source: str) -> str:
        """Begins a script; the job's id."""

    async def wait(self, source: str) -> str:
        """Runs a script to its end; what it printed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run needs from outside."""

    version: Version
    menus: MenuCommands
    jobs: Jobs
    variables: dict[str, Cell]
    output: Output
    sleep: Callable[[float], Awaitable[None]]
    now: Callable[[], float]


class Run:
    """One run of one script."""

    def __init__(self, around: Surroundings, max_steps: int) -> None:
        self.around = around
        self._max_steps = max_steps
        self.calls = 0
        self._steps = 0
        self._breathed = around.now()

    async def step(self) -> None:
        """Counts one step; now and then others get their turn."""
        self._steps += 1
        if self._steps > self._max_steps:
            raise Interrupted
        now = self.around.now()
        if self._steps % _BREATH == 0 or now - self._breathed > _BREATH_SECONDS:
            self._breathed = now
            await asyncio.sleep(0)
