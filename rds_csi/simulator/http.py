"""HTTP/1.1 as a server speaks it on one connection, which can be made to break where a test wants it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import h11

_READ_BYTES = 1 << 16
# Bytes of one request's body: /rest takes 60 KiB of a file's contents, and scripts.
_MAX_BODY = 1 << 22
# Seconds for a client to take a reply.
_SEND_SECONDS = 60.0
# Seconds for a client to answer the end of a TLS connection.
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came: ``target`` is neither decoded nor split, names of ``headers`` are lower-case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    peer: str = ""
    """The IP address of the client."""


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


@dataclass(frozen=True, slots=True)
class Later:
    """The request is answered by ``answer``, but not before ``seconds``; not at all when the client goes before."""

    seconds: float
    answer: Callable[[], Awaitable["Answer"]]


Answer = Reply | Cut | Silence | Later
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


class Conversation:
    """The requests and replies of one connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        sleep: Callable[[float], Awaitable[None]],
        peer: str,
    ) -> None:
        self._peer = peer
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
            while isinstance(answer, Later):
                if not await self._stays(answer.seconds):
                    return
                answer = await answer.answer()
            if not await self._answer(request, answer):
                return
            self._protocol.start_next_cycle()

    async def _answer(self, request: Request, answer: Reply | Cut | Silence) -> bool:
        """Whether the connection goes on."""
        if isinstance(answer, Silence):
            await (self._stays(answer.seconds) if answer.seconds else self._gone())
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
                method, target = head.method.decode("ascii"), head.target.decode("ascii")
                return Request(method, target, headers, bytes(body), self._peer)
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

    async def _stays(self, seconds: float) -> bool:
        """Whether the client is still there after so long; the wait ends when it goes."""
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(self._gone()), loop.create_task(_slept(self._sleep(seconds)))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return not waits[0].done()
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _gone(self) -> None:
        """Until the client has gone; what it still sends is kept for later."""
        with contextlib.suppress(OSError):
            while data := await self._reader.read(_READ_BYTES):
                self._protocol.receive_data(data)


async def _slept(sleep: Awaitable[None]) -> None:
    await sleep


def _encoded(protocol: h11.Connection, reply: Reply, *, with_body: bool = True) -> tuple[bytes, bytes]:
    headers = [*reply.headers]
    if reply.status != 204:  # which has no body, nor its length (RFC 9110, 8.6)
        headers.append(("Content-Length", str(len(reply.body))))
    reason = _REASONS.get(reply.status, b"")
    head = protocol.send(h11.Response(status_code=reply.status, headers=headers, reason=reason)) or b""
    body = (protocol.send(h11.Data(data=reply.body)) or b"") if reply.body and with_body else b""
    return head, body + (protocol.send(h11.EndOfMessage()) or b"")
