"""A small HTTP/1.1 server, plain or over TLS, whose connections can be made to break where a test wants it."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import h11

from rds_csi.simulator.background import Background

_READ_BYTES = 1 << 16
# Bytes of one request's body: /rest takes 60 KiB of a file's contents, and scripts.
_MAX_BODY = 1 << 22
_HANDSHAKE_SECONDS = 20.0
# Seconds for a client to take a reply.
_SEND_SECONDS = 60.0
# Seconds for a client to answer the end of a TLS connection.
_CLOSE_SECONDS = 5.0
_BACKLOG = 256
# Turns of the loop in which an aborted transport, and the TLS transport above it, gives its socket back.
_CLOSING_TURNS = 4

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: ``target`` is neither decoded nor split, names of ``headers`` are lower-case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks: in the middle of ``reply``, or before any of it."""

    reply: Reply | None = None


@dataclass(frozen=True, slots=True)
class Silence:
    """No reply; the connection stays until the client goes, or for ``seconds`` if that is not 0."""

    seconds: float = 0.0


Answer = Reply | Cut | Silence
Handler = Callable[[Request], Awaitable[Answer]]
# The reason phrases that a client might look at.
_REASONS = {
    200: b"OK",
    201: b"Created",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    413: b"Content Too Large",
    415: b"Unsupported Media Type",
    500: b"Internal Server Error",
}


class HttpServer:
    """Answers each request of each connection by ``handler``, one after the other on a connection."""

    def __init__(
        self,
        handler: Handler,
        *,
        admit: Callable[[], bool] = lambda: True,
        tls: ssl.SSLContext | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``admit`` is asked for every new connection; one that is not wanted is closed at once."""
        self._handler = handler
        self._admit = admit
        self._tls = tls
        self._sleep = sleep
        self._listener: socket.socket | None = None
        self._background = Background()
        self._transports: set[asyncio.BaseTransport] = set()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._transports)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port, which is chosen when ``port`` is 0. OSError when that cannot be."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._background.spawn(self._accept(self._listener))
        return int(self._listener.getsockname()[1])

    def drop(self) -> None:
        """Break every connection; new ones are still accepted."""
        for transport in tuple(self._transports):
            # Of any kind of transport: abort is not in the base class of plain and TLS transports.
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

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
                connection, _ = await loop.sock_accept(listener)
            except OSError:
                # Out of file descriptors, or the client has gone before it was accepted.
                _log.warning("a connection could not be accepted", exc_info=True)
                await asyncio.sleep(0.1)
                continue
            if self._admit():
                self._background.spawn(self._serve(connection))
            else:
                connection.close()

    async def _serve(self, connection: socket.socket) -> None:
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
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                # The client does not like the certificate, or speaks something else.
                return
            raise
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._transports.add(transport)
        try:
            with contextlib.suppress(OSError, h11.RemoteProtocolError, EOFError):
                await _Conversation(reader, writer, self._handler, self._sleep).run()
        finally:
            transport.abort()
            self._transports.discard(transport)


class _Conversation:
    """The requests and replies of one connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._sleep = sleep
        self._protocol = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Until the connection is over; h11.RemoteProtocolError for what is not HTTP, OSError when it breaks."""
        while True:
            try:
                request = await self._request()
            except h11.RemoteProtocolError as error:
                if self._protocol.our_state is h11.IDLE or self._protocol.our_state is h11.SEND_RESPONSE:
                    await self._send(_encoded(self._protocol, Reply(error.error_status_hint)))
                return
            if request is None:
                return
            answer = await self._handler(request)
            if not await self._answer(request, answer):
                return
            self._protocol.start_next_cycle()

    async def _answer(self, request: Request, answer: Answer) -> bool:
        """Whether the connection goes on."""
        if isinstance(answer, Silence):
            await self._stay_silent(answer.seconds)
            return False
        reply = answer.reply if isinstance(answer, Cut) else answer
        if reply is None:
            return False
        head, body = _encoded(self._protocol, reply, with_body=request.method != "HEAD")
        if isinstance(answer, Cut):
            await self._send((head, body[: len(body) // 2]) if body else (head[: len(head) // 2], b""))
            return False
        await self._send((head, body))
        if self._protocol.our_state is not h11.DONE or self._protocol.their_state is not h11.DONE:
            await self._close()
            return False
        return True

    async def _request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._protocol.next_event()
            if event is h11.NEED_DATA:
                if self._protocol.they_are_waiting_for_100_continue:
                    self._writer.write(
                        self._protocol.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                    )
                self._protocol.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > _MAX_BODY:
                    raise h11.RemoteProtocolError("the body is too long", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
                return Request(head.method.decode("ascii"), head.target.decode("ascii"), headers, bytes(body))
            else:
                # The client has closed the connection, politely.
                return None

    async def _send(self, pieces: tuple[bytes, bytes]) -> None:
        self._writer.write(b"".join(pieces))
        async with asyncio.timeout(_SEND_SECONDS):
            await self._writer.drain()

    async def _close(self) -> None:
        """End the connection when the client has everything: to abort it would lose what is not sent yet."""
        self._writer.close()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()

    async def _stay_silent(self, seconds: float) -> None:
        if seconds:
            await self._sleep(seconds)
            return
        # What the client might still send goes nowhere.
        while await self._reader.read(_READ_BYTES):
            pass


def _encoded(protocol: h11.Connection, reply: Reply, *, with_body: bool = True) -> tuple[bytes, bytes]:
    headers = [*reply.headers]
    if reply.status != 204:  # which has no body, nor its length (RFC 9110, 8.6)
        headers.append(("Content-Length", str(len(reply.body))))
    reason = _REASONS.get(reply.status, b"")
    head = protocol.send(h11.Response(status_code=reply.status, headers=headers, reason=reason)) or b""
    body = (protocol.send(h11.Data(data=reply.body)) or b"") if reply.body and with_body else b""
    return head, body + (protocol.send(h11.EndOfMessage()) or b"")
