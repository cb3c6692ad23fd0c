"""HTTP/2 connections over grpclib's protocol: who is there, what they run, and who is sent away."""

import asyncio
import logging
from collections.abc import Callable

from grpclib.config import Configuration
from grpclib.protocol import AbstractHandler, H2Protocol, Stream
from h2.config import H2Configuration
from h2.events import UnknownFrameReceived

from rds_csi.rpc.calls import Call, Cause, is_call, refuse
from rds_csi.rpc.limits import Limits
from rds_csi.rpc.methods import Method

logger = logging.getLogger("rds_csi.rpc")

# The client's preface and the header of its first frame (RFC 9113, section 3.4).
_GREETING_BYTES = 24 + 9

_Headers = list[tuple[str, str]]


class Connections:
    """All connections of a server and the calls on them. One timer watches over both while there are any."""

    def __init__(self, methods: dict[str, Method], limits: Limits) -> None:
        self.methods = methods
        self.limits = limits
        self.refusing = False
        self._closed = False
        self.calls: set[Call] = set()
        self.refusals: set[asyncio.Task[None]] = set()
        # In the order of their coming; the value is the moment after which a silent one is closed.
        self._silent: dict[_Connection, float] = {}
        self._greeted: set[_Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._grpclib = Configuration(
            _keepalive_time=limits.ping_seconds,
            _keepalive_timeout=limits.ping_timeout_seconds,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
            _http2_min_sent_ping_interval_without_data=limits.ping_seconds / 2,
        ).__for_server__()
        # Inbound headers are not validated: kubelet, the sidecars and csi-sanity send an :authority that is
        # empty, "localhost" or the percent-encoded path of the socket. Latin-1, because a byte that is not
        # ASCII must not end the connection with all its calls.
        self._h2 = H2Configuration(
            client_side=False,
            header_encoding="latin-1",
            validate_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_inbound_headers=False,
            normalize_outbound_headers=False,
        )

    def __len__(self) -> int:
        return len(self._silent) + len(self._greeted)

    def make(self) -> asyncio.Protocol:
        """A protocol for a connection that was accepted."""
        connection = _Connection(self, self._grpclib, self._h2)
        # Known from here on: asyncio tells it of its transport only later, maybe after close().
        self._silent[connection] = asyncio.get_running_loop().time() + self.limits.handshake_seconds
        return connection

    def accept(self, call: Call) -> None:
        """Count and start ``call``."""
        self.calls.add(call)
        call.start(self.calls.discard, refused=self.refusing)
        self._watch()

    def opened(self, connection: "_Connection") -> None:
        """Keep a new connection; beyond the limit the longest silent one, or else this one, is closed."""
        if self._closed:
            connection.abort("the server has shut down")
            return
        self._watch()
        if len(self) > self.limits.connections:
            next(iter(self._silent)).abort("too many connections")

    def greeted(self, connection: "_Connection") -> None:
        """The connection has begun to speak HTTP/2."""
        if self._silent.pop(connection, None) is not None:
            self._greeted.add(connection)

    def closed(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self._silent.pop(connection, None)
        self._greeted.discard(connection)

    async def close(self, timeout: float) -> None:
        """Close all connections; those whose peer does not read within ``timeout`` seconds are cut."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # What was accepted just now gets its protocol in the next step of the loop.
        await asyncio.sleep(0)
        everyone = [*self._silent, *self._greeted]
        for connection in everyone:
            connection.close("the server has shut down")
        if everyone:
            await asyncio.wait([connection.lost for connection in everyone], timeout=timeout)
        for connection in [*self._silent, *self._greeted]:
            connection.abort("the peer does not read")

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.limits.tick_seconds, self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection, latest in list(self._silent.items()):
            if now > latest:
                connection.abort("no HTTP/2 preface in time")
        for call in list(self.calls):
            call.look(now)
        if self._silent or self.calls:
            self._watch()


class _Connection(H2Protocol):
    """grpclib's protocol, which here bears garbage in silence and counts itself."""

    def __init__(self, connections: Connections, config: Configuration, h2_config: H2Configuration) -> None:
        super().__init__(_Handler(connections), config, h2_config)
        self._connections = connections
        self._missing_bytes = _GREETING_BYTES
        self._transport: asyncio.WriteTransport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        super().connection_made(transport)
        # RFC 9113, section 4.1: unknown frames are ignored. grpclib would end the connection.
        self.processor.processors[UnknownFrameReceived] = _ignore
        self._connections.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:
            # Garbage raises more than h2's ProtocolError; the loop would log a traceback for each.
            logger.debug("connection closed: %s: %s", type(error).__name__, error)
            self.processor.close("Protocol error")
            return
        if self._missing_bytes > 0:
            self._missing_bytes -= len(data)
            if self._missing_bytes <= 0:
                self._connections.greeted(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.closed(self)
        super().connection_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)

    def close(self, reason: str) -> None:
        """End the connection; what is not sent yet is sent first."""
        if self._transport is not None:
            self.processor.close(reason)

    def abort(self, reason: str) -> None:
        """Cut the connection; what is not sent yet is lost."""
        logger.debug("connection cut: %s", reason)
        self._connections.closed(self)
        if self._transport is not None:
            self._transport.abort()


class _Handler(AbstractHandler):
    """The calls of one connection, as grpclib's protocol tells of them."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._calls: dict[Stream, Call] = {}

    def accept(self, stream: Stream, headers: _Headers, release_stream: Callable[[], None]) -> None:
        fields = dict(headers)
        method = self._connections.methods.get(fields.get(":path", "")) if is_call(fields) else None
        if method is None:
            task = asyncio.get_running_loop().create_task(refuse(stream, fields))
            self._connections.refusals.add(task)
            task.add_done_callback(self._connections.refusals.discard)
            task.add_done_callback(lambda _: release_stream())
            return
        call = self._calls[stream] = Call(stream, method, fields, self._connections.limits)
        self._connections.accept(call)

        def ended(_: asyncio.Task[None]) -> None:
            del self._calls[stream]
            release_stream()

        # Not in the task's own finally: one that is cancelled before its first step never gets there.
        call.task.add_done_callback(ended)

    def cancel(self, stream: Stream) -> None:
        if call := self._calls.get(stream):
            call.stop(Cause.GONE)

    def close(self) -> None:
        for call in self._calls.values():
            call.stop(Cause.GONE)


def _ignore(_: object) -> None:
    """An event without meaning for a server."""
