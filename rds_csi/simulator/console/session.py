"""One session of the console: a line comes in, what it prints comes out, and errors are printed, not raised."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from rds_csi.simulator.console.errors import ParseError, ScriptError, ScriptReturn
from rds_csi.simulator.console.host import Host
from rds_csi.simulator.console.interpreter import BlockRunner
from rds_csi.simulator.console.menu_commands import MenuCommands
from rds_csi.simulator.console.parser import Parser
from rds_csi.simulator.console.program import Block
from rds_csi.simulator.console.running import MAX_STEPS, Interrupted, Output, Run, Surroundings
from rds_csi.simulator.console.scope import Cell, Scope
from rds_csi.simulator.menu import RouterosError
from rds_csi.simulator.menus.users import User

# Characters of a line; a longer one is not even read.
MAX_LINE = 65535
_TOO_LONG = f"max line length {MAX_LINE} exceeded!\r\n"
# Pieces that may wait for a slow reader before the script waits too.
_WAITING_PIECES = 8

Write = Callable[[str], Awaitable[None]]


class Console:
    """What one user does on the device; every exec of SSH is a session of its own.

    ``variables`` are the global ones: given to several consoles, they share them, as a user's sessions do.
    ``max_steps`` bounds a run: statements and turns of loops.
    """

    def __init__(
        self,
        device: Host,
        user: User,
        *,
        variables: dict[str, Cell] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        max_steps: int = MAX_STEPS,
    ) -> None:
        self._device = device
        self._user = user
        self._variables = {} if variables is None else variables
        self._sleep = sleep
        self._now = now
        self._max_steps = max_steps

    async def run(self, line: str) -> AsyncGenerator[str, None]:
        """The pieces that an exec of ``line`` prints, each of whole lines that end with CRLF.

        It never raises for what the line says: RouterOS's words are the last piece then. Closing the iterator
        (or cancelling its reader) stops the script between two steps; what it did so far stays done.
        """
        pieces: asyncio.Queue[str | None] = asyncio.Queue(_WAITING_PIECES)
        task = asyncio.create_task(self._fill(line, pieces), name="console-line")
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _fill(self, line: str, pieces: "asyncio.Queue[str | None]") -> None:
        try:
            if len(line) > MAX_LINE:
                await pieces.put(_TOO_LONG)
            else:
                await self._perform(line, pieces.put, one_line=True, places=False)
        except Exception:
            # A defect of ours: the reader wakes up and is told.
            await pieces.put(None)
            raise
        await pieces.put(None)

    async def execute(self, script: str) -> str:
        """What a script prints, all at once, as ``/rest/execute`` with ``as-string`` gives it.

        Errors are text too, with the place at which they happened. Lines end with CRLF, the last one does not.
        """
        printed: list[str] = []

        async def keep(piece: str) -> None:
            printed.append(piece)

        await self._perform(script, keep, one_line=False, places=True)
        return "".join(printed).removesuffix("\r\n")

    async def start(self, source: str) -> str:
        """Runs a script in the background (``/execute``, ``/rest/execute``); the job's id."""
        return self._device.start_job(self._background(source), owner=self._user.name, script=source)

    async def wait(self, source: str) -> str:
        """Runs a script to its end; what it printed."""
        return await self.execute(source)

    async def _background(self, source: str) -> None:
        async def forget(_piece: str) -> None:
            """Nobody reads what a job prints."""

        await self._perform(source, forget, one_line=False, places=True)

    async def _perform(self, text: str, write: Write, *, one_line: bool, places: bool) -> None:
        try:
            block = self._parsed(text, one_line=one_line)
            await self._run(block, write)
        except ScriptReturn:
            return
        except Interrupted:
            await write("interrupted\r\n")
        except RecursionError:
            await write("maximum stack depth reached\r\n")
        except ScriptError as error:
            place = f" {error.place}" if places and error.place else ""
            await write(f"{error.text}{place}\r\n")
        except RouterosError as error:
            await write(f"{error.text}\r\n")

    def _parsed(self, text: str, *, one_line: bool) -> Block:
        line = text.rstrip("\r\n") if one_line else text
        if one_line and "\n" in line:
            # Several lines in one exec are not supported: the first line end is where the command ends.
            raise ParseError(f"syntax error (line 1 column {line.index(chr(10)) + 1})")
        return Parser(line, self._device.menus, self._device.version).parse()

    async def _run(self, block: Block, write: Write) -> None:
        output = Output(write)
        around = Surroundings(
            version=self._device.version,
            menus=MenuCommands(self._device, self._user, output.say),
            jobs=self,
            variables=self._variables,
            output=output,
            sleep=self._sleep,
            now=self._now,
        )
        await BlockRunner(Run(around, self._max_steps), Scope()).run(block)
