"""One channel of an SSH connection: a script comes in, what it prints goes out, on stdout and with exit status 0."""

import asyncio
import contextlib
from typing import Protocol

import asyncssh

from rds_csi.simulator.background import Background
from rds_csi.simulator.consoles import tells_failure
from rds_csi.simulator.context import NOT_PERMITTED, Context, NotDone
from rds_csi.simulator.faults import FaultKind, Struck, corrupt
from rds_csi.simulator.menus.users import User

_NO_SHELL = b"This simulator runs commands only: ssh user@host COMMAND\r\n"
_NO_SHELL_STATUS = 1
# Bytes that are written at once: asyncssh copies what it could not send yet again for every packet.
_PIECE = 1 << 16


class Peer(Protocol):
    """The connection of a channel."""

    @property
    def user(self) -> User | None:
        """Who has logged in."""

    def drop(self) -> None:
        """Break the connection, without a word."""

    def channel_closed(self) -> None:
        """One channel fewer."""


class ExecSession(asyncssh.SSHServerSession[bytes]):
    """One channel: one script, and what it prints.

    The script runs in ``running`` and not in its connection: nothing says that RouterOS stops one whose client is
    gone. ``exit_status`` is that of a script that failed.
    """

    def __init__(self, context: Context, connection: Peer, running: Background, exit_status: int) -> None:
        self._context = context
        self._connection = connection
        self._running = running
        self._exit_status = exit_status
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._script: str | None = None
        # Cleared while the client is slow to read.
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()

    def connection_made(self, chan: "asyncssh.SSHServerChannel[bytes]") -> None:
        self._channel = chan

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended does not matter
        self._channel = None
        self._closed.set()
        self._writable.set()
        self._connection.channel_closed()

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._script = command
        return True

    def subsystem_requested(self, subsystem: str) -> bool:  # noqa: ARG002 - there is no SFTP, nor any other
        return False

    def eof_received(self) -> bool:
        # A client that sends nothing wants an answer all the same.
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def session_started(self) -> None:
        if self._script is not None:
            self._running.spawn(self._exec(self._script))
        elif self._channel is not None:
            self._channel.write(_NO_SHELL)
            self._channel.exit(_NO_SHELL_STATUS)

    async def _exec(self, script: str) -> None:
        self._context.counters.execs += 1
        try:
            await self._answer(script, await self._context.arrived(script))
        except NotDone:
            self._connection.drop()
        except Exception:
            # A defect of the simulator: its client must not wait for ever.
            self._connection.drop()
            raise

    async def _answer(self, script: str, struck: Struck) -> None:
        user = self._connection.user
        assert user is not None
        if struck.faults:
            await self._deliver(await self._collected(user, script, struck), struck)
            return
        last = ""
        async with contextlib.aclosing(self._context.consoles.open(user).run(script)) as printed:
            async for piece in printed:
                last = piece
                await self._write(piece)
        self._end(failed=tells_failure(last))

    async def _collected(self, user: User, script: str, struck: Struck) -> list[str]:
        """All that the script prints, while the conditions of the faults hold."""
        if FaultKind.WRONG_POLICY in struck:
            return [f"{NOT_PERMITTED}\r\n"]
        with self._context.conditions.during(struck.conditions):
            async with contextlib.aclosing(self._context.consoles.open(user).run(script)) as printed:
                return [piece async for piece in printed]

    async def _deliver(self, pieces: list[str], struck: Struck) -> None:
        """Send what the faults leave of it."""
        text = "".join(pieces)
        if FaultKind.CORRUPT_JSON in struck:
            text = corrupt(text)
        if hang := struck.get(FaultKind.HANG):
            if not hang.seconds:
                # Its client closes the channel, perhaps, and goes on with others.
                await self._closed.wait()
                return
            await self._context.sleep(hang.seconds)
            self._connection.drop()
        elif FaultKind.LOSE_REPLY in struck:
            self._connection.drop()
        elif FaultKind.CUT_REPLY in struck:
            await self._write(text[: len(text) // 2])
            self._connection.drop()
        else:
            await self._write(text)
            self._end(failed=tells_failure(pieces[-1] if pieces else ""))

    async def _write(self, text: str) -> None:
        """Wait until the client can take more; nothing happens when it has gone."""
        data = memoryview(text.encode("utf-8", "replace"))
        for begin in range(0, len(data), _PIECE):
            await self._writable.wait()
            if self._channel is None or self._channel.is_closing():
                return
            self._channel.write(bytes(data[begin : begin + _PIECE]))

    def _end(self, *, failed: bool) -> None:
        if self._channel is not None:
            self._channel.exit(self._exit_status if failed else 0)
