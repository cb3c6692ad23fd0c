"""A small HTTP/1.1 server, plain or over TLS: its connections, from their acceptance to their end."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import h11

from rds_csi.simulator.background import Background
from rds_csi.simulator.http import Conversation, Handler

_HANDSHAKE_SECONDS = 20.0
_BACKLOG = 256
# Turns of the loop in which an aborted transport, and the TLS transport above it, gives its socket back.
_CLOSING_TURNS = 4

_log = logging.getLogger(__name__)


class HttpServer:
    """Answers each request of each connection by ``handler``, one after the other on a connection."""

    def __init__(
        self,
        handler: Handler,
        *,
        admit: Callable[[str], bool] = lambda _: True,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``admit`` is asked for every new connection, by its IP address; one that is not wanted is closed at once."""
        self._handler = handler
        self._admit = admit
        self._tls = tls
        self._sleep = sleep
        self._listener: socket.socket | None = None
        self._background = Background()
        # Every connection from its acceptance on; without a transport while it is in its TLS handshake.
        self._open: dict[socket.socket, asyncio.WriteTransport | None] = {}

    @property
    def connections(self) -> int:
        """How many connections are open, those in their TLS handshake among them."""
        return len(self._open)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is chosen when ``port`` is 0. OSError when that cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._background.spawn(self._accept(self._listener))
        return int(self._listener.getsockname()[1])

    def drop(self) -> None:
        """Break every connection; new ones are still accepted."""
        for connection, transport in tuple(self._open.items()):
            if transport is not None:
                transport.abort()
                continue
            # The socket is asyncio's by now, which must find out itself: the handshake fails.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Listen no more and break every connection."""
        self.drop()
        await self._background.close()
        if self._listener is not None:
            self._listener.close()
        for _ in range(_CLOSING_TURNS):
            await asyncio.sleep(0)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError:
                # Out of file descriptors, or the client has gone before it was accepted.
                _log.warning("a connection could not be accepted", exc_info=True)
                await asyncio.sleep(0.1)
                continue
            peer = str(address[0])
            if not self._admit(peer):
                connection.close()
                continue
            self._open[connection] = None
            self._background.spawn(self._serve(connection, peer)).add_done_callback(partial(self._ended, connection))

    def _ended(self, connection: socket.socket, _: object) -> None:
        if self._open.pop(connection) is None:
            # Nobody has taken it over: its task may have been cancelled before its first step.
            connection.close()

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS if self._tls else None,
            )
        except OSError:
            # The client does not like the certificate, speaks something else, or has gone.
            return
        self._open[connection] = transport
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            with contextlib.suppress(OSError, h11.RemoteProtocolError, EOFError):
                await Conversation(reader, writer, self._handler, self._sleep, peer).run()
        finally:
            transport.abort()
