"""The HTTP endpoint for Prometheus and probes: /metrics, /healthz and /readyz, and the documents that it is given.

A web framework would take more memory than the driver; this reads one request line, answers and closes.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from rds_csi.errors import ConfigurationError
from rds_csi.logging import log
from rds_csi.metrics import Metrics
from rds_csi.rpc.http_tls import TlsContext
from rds_csi.rpc.http_token import BearerToken
from rds_csi.rpc.sockets import Listener, listen, path_of
from rds_csi.rpc.status import clean_text

logger = logging.getLogger("rds_csi.rpc")

# What is wrong, in one sentence; "" when all is well.
Check = Callable[[], Awaitable[str]]
# Something that json.dumps takes.
Document = Callable[[], Awaitable[object]]

_HEAD_BYTES = 8 << 10
_CONNECTIONS = 16
# From connect to the last byte of the answer: a scraper that is slower is not there any more.
_EXCHANGE_SECONDS = 10.0
# Below the timeout of a kubelet's probe that leaves some room (5 s).
_CHECK_SECONDS = 4.0

_TEXT = "text/plain; charset=utf-8"
_METRICS = "text/plain; version=0.0.4; charset=utf-8"
_JSON = "application/json"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = _TEXT
    # Further header lines, each with its CRLF.
    headers: str = ""

    def encode(self, *, with_body: bool) -> bytes:
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nX-Content-Type-Options: nosniff\r\n{self.headers}"
            "Connection: close\r\n\r\n"
        )
        return head.encode("latin-1") + (self.body if with_body else b"")


_UNAUTHORIZED = _Answer(401, b"a bearer token is needed\n", headers='WWW-Authenticate: Bearer realm="rds-csi"\r\n')


class HttpEndpoint:
    """Serves ``metrics`` and two checks: ``healthy`` (restart me if not), ``ready`` (send me work)."""

    def __init__(
        self,
        address: str,
        metrics: Metrics,
        *,
        healthy: Check,
        ready: Check,
        documents: Mapping[str, Document] | None = None,
        tls: TlsContext | None = None,
        token: BearerToken | None = None,
    ) -> None:
        """``address``: ``host:port`` or ``[v6]:port``, where port 0 takes a free one; or ``unix:/path``, a socket
        for its owner alone that is removed by ``close``. With "" ``start`` does nothing.

        ``documents``: what else is answered, as JSON, by its path (``/operations``).
        ``tls``: every connection is secured with it. ``token``: asked for all but the checks, which are for probes
        that have none.
        """
        self._address = address
        self._metrics = metrics
        self._checks = {"/healthz": healthy, "/readyz": ready}
        self._documents = dict(documents or {})
        self._tls = tls
        self._token = token
        self._listener: Listener | None = None
        self._server: asyncio.Server | None = None
        # In the order in which they began.
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def port(self) -> int:
        """The port that is listened on; 0 when there is none."""
        if self._server is None or self._listener is not None or not self._server.sockets:
            return 0
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen. ConfigurationError when the address cannot be had."""
        if not self._address:
            return
        if self._address.startswith("unix:"):
            await self._start_unix()
        else:
            await self._start_tcp()
        log(logger, logging.INFO, "serving metrics and health", address=self._address)

    async def _start_unix(self) -> None:
        listener = await listen(path_of(self._address))
        try:
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener.socket, limit=_HEAD_BYTES, backlog=_CONNECTIONS
            )
        except BaseException:
            listener.socket.close()
            listener.remove()
            raise
        self._listener = listener

    async def _start_tcp(self) -> None:
        host, _, port = self._address.rpartition(":")
        try:
            self._server = await asyncio.start_server(
                self._accept, host.strip("[]"), int(port), limit=_HEAD_BYTES, backlog=_CONNECTIONS
            )
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigurationError(
                f"cannot listen on {self._address}: {error}", remedy="Choose another --http-endpoint."
            ) from None

    async def close(self) -> None:
        """Stop listening and end what is being answered."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._listener is not None:
            self._listener.remove()
            self._listener = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered = [task for task in self._tasks if not task.cancelling()]
        if len(answered) >= _CONNECTIONS:
            # Of so many, who came first most likely says nothing. A probe that is turned away costs the pod.
            answered[0].cancel()
        task = asyncio.get_running_loop().create_task(self._exchange(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        # Also of an exchange that was cancelled before it began; nothing happens when it is closed already.
        self._tasks.pop(task).transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # TimeoutError is an OSError: a client that is too slow, or has gone, gets nothing.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(_EXCHANGE_SECONDS):
                if self._tls is not None:
                    # Here and not by the listening socket: the handshake is within the bounds of time and number,
                    # and each connection gets the certificate that is in the files now.
                    await writer.start_tls(self._tls.get())
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.close()
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _Answer(431, b"the request is too long\n").encode(with_body=True)
        first, *others = head.split(b"\r\n")
        words = first.split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _Answer(400, b"this is no HTTP/1 request\n").encode(with_body=True)
        method, target, _ = words
        if method not in (b"GET", b"HEAD"):
            return _Answer(405, b"only GET and HEAD are answered\n").encode(with_body=True)
        path = target.split(b"?", 1)[0].decode("latin-1")
        is_open = path in self._checks or self._token is None or self._token.is_shown(others)
        answer = await self._look(path) if is_open else _UNAUTHORIZED
        return answer.encode(with_body=method == b"GET")

    async def _look(self, path: str) -> _Answer:
        if path == "/metrics":
            return _Answer(200, await self._metrics.exposition(), _METRICS)
        if path in self._documents:
            return await _document(path, self._documents[path])
        check = self._checks.get(path)
        if check is None:
            known = ", ".join(["/metrics", *self._checks, *self._documents])
            return _Answer(404, f"there are {known}\n".encode())
        problem = await _problem(path, check)
        return _Answer(503, f"{clean_text(problem)}\n".encode()) if problem else _Answer(200, b"ok\n")


async def _document(path: str, document: Document) -> _Answer:
    """The document as JSON; one that cannot be made is told as a check's problem is."""
    body = b""

    async def make() -> str:
        nonlocal body
        body = json.dumps(await document()).encode() + b"\n"
        return ""

    problem = await _problem(path, make)
    return _Answer(503, f"{clean_text(problem)}\n".encode()) if problem else _Answer(200, body, _JSON)


async def _problem(path: str, check: Check) -> str:
    """What the check says; a check that fails or hangs is a problem too."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"the check did not end within {_CHECK_SECONDS:g} s"
    except Exception as error:
        logger.exception("the check of %s failed", path)
        return f"the check failed: {type(error).__name__}"
