"""REST over HTTPS: one request at a time for each user, and none is ever broken off once it is under way.

RouterOS goes on with a request whose connection is gone, and an early next one may get its answer or break the web
server for seconds (facts on RouterOS, 4.1): so every request is waited for, whatever its caller does.
"""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, TlsMistrust, Unsent
from rds_csi.arrays.routeros.options import RestOptions
from rds_csi.arrays.routeros.pauses import DIAL_PACE, Pauses, again
from rds_csi.arrays.routeros.rest_errors import Reply, exchange_error, read_reply
from rds_csi.arrays.routeros.rest_tls import tls_context
from rds_csi.arrays.routeros.rest_users import UserPool
from rds_csi.arrays.routeros.secrets import Credentials, read_password, read_users
from rds_csi.deadline import remaining, within
from rds_csi.errors import DeadlineExceeded, DriverError, InvalidArgument
from rds_csi.retry import Clock, Pace
from rds_csi.workers import Workers

# Bytes. Ten thousand disks are about ten million bytes of JSON.
BODY_LIMIT = 64 << 20

# Seconds for a secret's file.
_FILES_SECONDS = 5.0
# Seconds that a quiet connection is used again: below what a web server keeps it for, or a request would meet its end.
_KEEP_SECONDS = 15.0
# Ids ("*2B") have to arrive as they are; anything that needed quoting is refused instead.
_PATH = re.compile(r"/rest/[A-Za-z0-9._~*,:+%@/-]+(?:\?[A-Za-z0-9._~*,:+%@/=&-]*)?", re.ASCII)

_CLOCK = Clock()


@dataclass(frozen=True, slots=True)
class RestTimes:
    """Deadlines in seconds.

    ``connect``: TCP, and then TLS. ``reply``: silence of the device, above the 60 s after which RouterOS itself
    ends a request. ``total``: the whole request. ``place``: waiting for a free user. ``close``: how long running
    requests are waited for at the end.
    """

    connect: float = 10.0
    reply: float = 70.0
    total: float = 90.0
    place: float = 120.0
    close: float = 10.0


_TIMES = RestTimes()


@dataclass(slots=True)
class RestCounters:
    """What was asked of the device: connections made and requests sent."""

    connections: int = 0
    requests: int = 0


class _Exchange:
    """How far one request has come, told by httpx's ``trace`` extension."""

    def __init__(self, counters: RestCounters) -> None:
        self.sent = False
        self._counters = counters

    async def trace(self, name: str, _info: Mapping[str, object]) -> None:
        if name == "connection.connect_tcp.complete":
            self._counters.connections += 1
        if name == "http11.send_request_headers.started":
            self.sent = True
            self._counters.requests += 1


class RestSession:
    """Requests of many callers, as the users of the password file or the users file; the files are read for each
    request, so that rotated ones count. Nothing of the environment (proxies, .netrc, CA bundles) counts."""

    def __init__(
        self,
        options: RestOptions,
        *,
        clock: Clock = _CLOCK,
        pace: Pace = DIAL_PACE,
        times: RestTimes = _TIMES,
        workers: Workers | None = None,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        # Their lines on lower levels hold headers and addresses.
        for library in ("httpx", "httpcore"):
            logging.getLogger(library).setLevel(logging.WARNING)
        self.counters = RestCounters()
        self._options = options
        self._times = times
        self._workers = workers or Workers(limit=2)
        self._body_limit = body_limit
        self._pauses = Pauses(clock, pace)
        self._reading: asyncio.Task[ssl.SSLContext | DriverError] | None = None
        self._users = UserPool()
        # None until it is read, and again after a failure: the CA file may be replaced meanwhile.
        self._tls: ssl.SSLContext | None = None
        # A connection for each user: RouterOS knows its callers by it for a while.
        self._clients: dict[str, tuple[ssl.SSLContext, httpx.AsyncClient]] = {}
        self._running: set[asyncio.Task[Reply | DriverError]] = set()
        self._closed = False

    @property
    def label(self) -> str:
        """``host:port``, for messages."""
        return f"{self._options.host}:{self._options.port}"

    async def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Reply:
        """One request; ``path`` begins with ``/rest/`` and is sent as it is.

        RouterOS's own 4xx is a reply with a ``refusal``. Unsent, Refused, NotTrusted: nothing was done. LostReply,
        GarbageReply: look first. A cancelled caller leaves the request running to its end, its user busy with it.
        """
        if not _PATH.fullmatch(path):
            raise InvalidArgument(f"{path[:200]!r} is no path of RouterOS's REST")
        self._check_caller()
        self._pauses.check()
        tls = await self._read()
        try:
            # Nothing is awaited between reading and queueing: who came first is served first.
            credentials = await self._users.take(within(self._times.place))
        except TimeoutError:
            raise Unsent(f"every user of {self.label} stayed busy") from None
        try:
            self._check_caller()
            self._pauses.check()
        except BaseException:
            self._users.give_back(credentials.user)
            raise
        task = asyncio.create_task(self._perform(credentials, tls, method, path, body))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait({task}, timeout=within(self._times.total + self._times.connect))
        if not done or task.cancelled():
            raise LostReply(f"{self.label} did not answer {method} {path} before its caller's time was over")
        result = task.result()
        if isinstance(result, DriverError):
            raise result
        return result

    async def close(self) -> None:
        """Take no more requests, wait for the running ones for a while, and close. Leaves no task."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running, timeout=self._times.close)
        leftover = (*self._running, *filter(None, [self._reading]))
        for task in leftover:
            task.cancel()
        if leftover:
            await asyncio.wait(leftover)
        for _, client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    def _check_caller(self) -> None:
        if self._closed:
            raise Unsent(f"the session with {self.label} is closed for good")
        if remaining() == 0:
            raise Unsent(f"the caller's time was over before {self.label} could be asked")

    async def _read(self) -> ssl.SSLContext:
        """Have the files read; callers that come while they are being read share what is found.

        In a task of its own: a worker that is left alone by a cancelled caller counts as stuck for the next one.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_files())
        task = self._reading
        done, _ = await asyncio.wait({task}, timeout=within(2 * _FILES_SECONDS))
        if not done or task.cancelled():
            raise Unsent(f"the files with the secrets for {self.label} were not read in time")
        result = task.result()
        if isinstance(result, DriverError):
            raise again(result)
        return result

    async def _read_files(self) -> ssl.SSLContext | DriverError:
        """Read the users, and the CA when that is due. A failure is the result: nobody may be waiting any more."""

        def read() -> tuple[tuple[Credentials, ...], ssl.SSLContext]:
            options = self._options
            if options.users_file:
                users = read_users(options.users_file)
            else:
                users = (Credentials(options.user, read_password(options.password_file)),)
            return users, self._tls or tls_context(options)

        try:
            users, tls = await self._workers.run(read, timeout=_FILES_SECONDS, key=self._options.secret_files[0][1])
        except DeadlineExceeded as error:
            return Unsent(error.message)
        except DriverError as error:
            return error
        self._tls = tls
        self._users.update(users)
        return tls

    async def _perform(
        self,
        credentials: Credentials,
        tls: ssl.SSLContext,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
    ) -> Reply | DriverError:
        """The request, to its end. Its failure is its result: nobody may be waiting for it any more."""
        exchange = _Exchange(self.counters)
        try:
            client = await self._client(credentials.user, tls)
            status, data = await self._exchange(client, exchange, credentials, method, path, body)
            self._pauses.succeeded()
            return read_reply(status, data, label=self.label, user=credentials.user)
        except DriverError as error:
            if not exchange.sent:
                self._pauses.failed(error)
            if isinstance(error, TlsMistrust):
                self._tls = None
            return error
        finally:
            self._users.give_back(credentials.user)

    async def _exchange(
        self,
        client: httpx.AsyncClient,
        exchange: _Exchange,
        credentials: Credentials,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
    ) -> tuple[int, bytes]:
        """Status and body of the reply."""
        content = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._times.total),
                client.stream(
                    method,
                    path,
                    content=content,
                    headers=headers,
                    auth=httpx.BasicAuth(credentials.user, credentials.password),
                    extensions={"trace": exchange.trace},
                ) as response,
            ):
                return response.status_code, await self._body(response)
        except (httpx.HTTPError, ssl.SSLError, OSError) as error:
            raise exchange_error(error, sent=exchange.sent, label=self.label) from None

    async def _body(self, response: httpx.Response) -> bytes:
        """The body, unpacked by nobody: what is counted is what is kept."""
        pieces: list[bytes] = []
        size = 0
        async for piece in response.aiter_raw():
            size += len(piece)
            if size > self._body_limit:
                raise GarbageReply(f"{self.label} answers with more than is ever expected; the request may be done")
            pieces.append(piece)
        return b"".join(pieces)

    async def _client(self, user: str, tls: ssl.SSLContext) -> httpx.AsyncClient:
        """The user's own client, which nobody else uses now; a new one when certificates are checked anew."""
        known = self._clients.pop(user, None)
        if known is not None and known[0] is tls:
            self._clients[user] = known
            return known[1]
        if known is not None:
            await known[1].aclose()
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        client = httpx.AsyncClient(
            base_url=f"https://{host}:{self._options.port}",
            verify=tls,
            trust_env=False,
            follow_redirects=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=1, keepalive_expiry=_KEEP_SECONDS),
            timeout=httpx.Timeout(self._times.reply, connect=self._times.connect, pool=None),
        )
        self._clients[user] = (tls, client)
        return client
