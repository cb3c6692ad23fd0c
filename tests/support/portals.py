"""NVMe/TCP portals that misbehave: real listening sockets on this machine, each broken in a way of its own.

PDU layouts: NVM Express TCP Transport Specification 1.0, section 3.6.2 (ICReq and ICResp).
"""

import asyncio
import contextlib
import socket
import struct
import time
from abc import abstractmethod
from types import TracebackType
from typing import Self

ADDRESS = "127.0.0.1"

# PDU type, flags, header length, data offset, PDU length; version, alignment, digests, MAXH2CDATA; reserved.
_ICRESP = struct.pack("<BBBBI HBBI 112x", 0x01, 0, 128, 0, 128, 0, 0, 0, 1 << 17)
_ICREQ_BYTES = 128
# Linux queues one connection more than the backlog says, and one more while it is being answered.
_FILLERS = 4
_FILL_SECONDS = 10.0
# For a moment far longer than a SYN takes on the loopback device.
_FULL_SECONDS = 0.5


class CountingPortal:
    """Accepts connections and notes when; what becomes of them is up to the subclass.

    ``attempts`` are moments of ``time.monotonic()``, one for each accepted connection.
    """

    address = ADDRESS

    def __init__(self) -> None:
        self.attempts: list[float] = []
        self._socket = socket.create_server((ADDRESS, 0), backlog=16)
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    @property
    def portal(self) -> str:
        """Address and port, as messages write it."""
        return f"{self.address}:{self.port}"

    @abstractmethod
    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Treat one connection; it is closed when this returns."""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.attempts.append(time.monotonic())
        self._open[writer] = asyncio.current_task()
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.answer(reader, writer)
        finally:
            del self._open[writer]
            writer.close()

    def since(self, moment: float) -> int:
        """How many attempts were made after ``moment``."""
        return sum(attempt > moment for attempt in self.attempts)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, sock=self._socket)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        handlers = [handler for handler in self._open.values() if handler is not None]
        for writer in self._open:
            writer.transport.abort()
        # They end by the abort; a test's loop must not close over them.
        await asyncio.gather(*handlers)
        await self._server.wait_closed()


class ClosingPortal(CountingPortal):
    """Resets every connection as soon as it was accepted."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = writer.get_extra_info("socket")
        # A linger time of 0 makes the close a reset (socket(7)).
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class MutePortal(CountingPortal):
    """Accepts, reads, and never says a word."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass


class HalfMutePortal(CountingPortal):
    """Answers the handshake of the transport, but not the Connect command after it."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(_ICREQ_BYTES)
        writer.write(_ICRESP)
        await writer.drain()
        while await reader.read(1 << 16):
            pass


class FilteredPortal:
    """Drops every SYN, as a firewall does: its accept queue is full, and nobody accepts.

    Source: tcp_conn_request() of net/ipv4/tcp_input.c drops the SYN when sk_acceptq_is_full().
    """

    address = ADDRESS

    def __init__(self) -> None:
        self._socket = socket.create_server((ADDRESS, 0), backlog=0)
        self.port: int = self._socket.getsockname()[1]
        self._fillers: list[socket.socket] = []

    @property
    def portal(self) -> str:
        """Address and port, as messages write it."""
        return f"{self.address}:{self.port}"

    async def __aenter__(self) -> Self:
        for _ in range(_FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect((self.address, self.port))
            self._fillers.append(filler)
        async with asyncio.timeout(_FILL_SECONDS):
            while await self._answers():
                pass
        return self

    async def _answers(self) -> bool:
        """Whether one more connection is accepted; it then fills the queue."""
        filler = socket.socket()
        filler.setblocking(False)
        self._fillers.append(filler)
        try:
            async with asyncio.timeout(_FULL_SECONDS):
                await asyncio.get_running_loop().sock_connect(filler, (self.address, self.port))
        except TimeoutError:
            return False
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for filler in self._fillers:
            filler.close()
        self._socket.close()


def free_port() -> int:
    """A port on which nobody listens: a connection to it is refused."""
    with socket.create_server((ADDRESS, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
