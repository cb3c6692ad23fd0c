"""A long line to the servers: a relay that delays every byte by half a round trip in each direction.

Delaying bytes instead of counting round trips makes handshakes, channel opens and requests cost what they would cost
over a real network.
"""

import asyncio
from collections import deque
from collections.abc import Callable


class _End(asyncio.Protocol):
    """One of the two ends of a relayed connection."""

    def __init__(self, delay: float, made: Callable[["_End"], None] | None = None) -> None:
        self._delay = delay
        self._made = made
        self._pending: deque[bytes | None] = deque()
        # What has come before there was a way on.
        self._early: list[bytes | None] = []
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._made is not None:
            self._made(self)

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended does not matter
        self.closed = True
        self._later(None)

    def join(self, peer: "_End") -> None:
        """From now on what comes goes to ``peer``."""
        self.peer = peer
        early, self._early = self._early, []
        for piece in early:
            self._later(piece)

    def _later(self, piece: bytes | None) -> None:
        if self.peer is None:
            self._early.append(piece)
            return
        # A queue, and not an argument of the timer: timers of the same moment come in no certain order.
        self._pending.append(piece)
        asyncio.get_running_loop().call_later(self._delay, self._pass_on)

    def _pass_on(self) -> None:
        piece = self._pending.popleft()
        if self.peer is None or self.peer.transport is None:
            return
        if piece is None:
            self.peer.transport.close()
        elif not self.peer.closed:
            self.peer.transport.write(piece)


class Relay:
    """Listens at a port of its own and passes on to the server's, ``seconds`` a round trip."""

    def __init__(self, seconds: float) -> None:
        self._delay = seconds / 2
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int, target_host: str, target_port: int) -> int:
        """Listen; the port."""

        def accepted(end: _End) -> None:
            task = asyncio.get_running_loop().create_task(self._join(end, target_host, target_port))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self._delay, accepted), host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def _join(self, end: _End, host: str, port: int) -> None:
        assert end.transport is not None
        other = _End(self._delay)
        self._ends = {each for each in self._ends if not each.closed} | {end, other}
        try:
            # A connection is made after one round trip.
            await asyncio.sleep(2 * self._delay)
            await asyncio.get_running_loop().create_connection(lambda: other, host, port)
        except OSError:
            end.transport.abort()
            return
        end.join(other)
        other.join(end)

    async def close(self) -> None:
        """Listen no more, and break what is there."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in self._ends:
            if end.transport is not None:
                end.transport.abort()
        if self._server is not None:
            await self._server.wait_closed()
