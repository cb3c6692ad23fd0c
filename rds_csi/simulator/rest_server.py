"""The REST server: users let in by password, one request of a user at a time, none answered after a minute."""

import asyncio
import base64
import binascii
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass, field

from rds_csi.simulator.background import Background
from rds_csi.simulator.context import NOT_PERMITTED, Context, NotDone
from rds_csi.simulator.faults import FaultKind, Stage, Struck, corrupt
from rds_csi.simulator.http import Answer, Cut, Later, Reply, Request, Silence
from rds_csi.simulator.http_server import HttpServer
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.rest_commands import RestCommands
from rds_csi.simulator.rest_values import BAD_IDENTIFIER, RestError

_SERVER = "https"
# All that REST knows to say of a user without a right to it, a wrong password and a wrong name.
_UNAUTHORIZED = RestError(401)
_NO_API = "std failure: not allowed (9)"
_SESSION_CLOSED = RestError(400, "Session closed")


@dataclass(eq=False, slots=True)
class _Session:
    """The session of one user with the API behind the web server: requests go through it one after the other."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    closed: bool = False


class RestServer:
    """HTTPS in front of the menus."""

    def __init__(self, context: Context, tls: ssl.SSLContext, *, request_seconds: float) -> None:
        self._context = context
        self._request_seconds = request_seconds
        self._commands = RestCommands(context.device, context.consoles)
        self._sessions: dict[str, _Session] = {}
        # Requests run here and not in their connections: one that its client has abandoned goes on.
        self._running = Background()
        self._http = HttpServer(self._handle, admit=self._admit, tls=tls, sleep=context.sleep)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port."""
        return await self._http.start(host, port)

    def drop_connections(self) -> None:
        """Break every connection; what runs goes on."""
        self._http.drop()

    def drop(self) -> None:
        """Break every connection and end what runs, as a reboot does."""
        self._sessions.clear()
        self._http.drop()
        self._running.cancel()

    async def close(self) -> None:
        """Listen no more, break every connection, end what runs."""
        await self._http.close()
        await self._running.close()

    def _admit(self, peer: str) -> bool:
        self._context.counters.https_connections += 1
        return self._context.admits(_SERVER, peer, self._http.connections)

    async def _handle(self, request: Request) -> Answer:
        boot = self._context.boot
        if self._context.rebooting:
            # It was in its TLS handshake when the others were cut.
            return Cut()
        blocked = self._context.faults.strike(Stage.CHANNEL, _SERVER).get(FaultKind.CHANNEL_OPEN_BLOCKED)
        if blocked is None:
            return await self._read(request, boot)
        return Later(blocked.seconds, lambda: self._read(request, boot)) if blocked.seconds else Silence()

    async def _read(self, request: Request, boot: int) -> Answer:
        """The answer to a request that has arrived when the device had rebooted ``boot`` times."""
        if boot != self._context.boot:
            return Cut()
        try:
            user = self._user(request)
        except RestError as error:
            return error.reply()
        self._context.counters.requests += 1
        task = self._running.spawn(self._in_turn(user, request, boot))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                # A reboot: the request is gone, and so is the connection.
                return Cut()
            raise

    def _user(self, request: Request) -> User:
        """Who asks; RestError when nobody may, or not that one."""
        name, password = _credentials(request.headers.get("authorization", ""))
        user = self._context.device.user(name)
        known = user is not None and user.may_use(password) and user.may_come_from(request.peer)
        if user is None or not known or "rest-api" not in user.policies:
            self._context.counters.denials += 1
            raise _UNAUTHORIZED
        if "api" not in user.policies:
            raise RestError(500, _NO_API)
        return user

    async def _in_turn(self, user: User, request: Request, boot: int) -> Answer:
        session = self._sessions.setdefault(user.name, _Session())
        async with session.turn:
            if boot != self._context.boot:
                return Cut()
            if session.closed:
                # It waited behind one that took too long.
                return _SESSION_CLOSED.reply()
            work = self._running.spawn(self._perform(user, request))
            if await self._in_time(work):
                return work.result()
            session.closed = True
            if self._sessions.get(user.name) is session:
                del self._sessions[user.name]
            return _SESSION_CLOSED.reply()

    async def _in_time(self, work: "asyncio.Task[Answer]") -> bool:
        """Whether the work ended before the server gave it up; it goes on in either case."""
        limit = self._running.spawn(_awaited(self._context, self._request_seconds))
        try:
            await asyncio.wait((work, limit), return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
        return work.done()

    async def _perform(self, user: User, request: Request) -> Answer:
        text = f"{request.method} {request.target} {request.body.decode('utf-8', 'replace')}"
        try:
            struck = await self._context.arrived(text)
        except NotDone:
            return Cut()
        if FaultKind.WRONG_POLICY in struck:
            # Changes of one item are refused without a reason, as everything that is wrong with them.
            vague = request.method in {"PATCH", "DELETE"}
            reply = (RestError(400, BAD_IDENTIFIER) if vague else RestError(500, NOT_PERMITTED)).reply()
        else:
            with self._context.conditions.during(struck.conditions):
                reply = await self._commands.answer(user, request)
        return _struck(reply, struck)


def _awaited(context: Context, seconds: float) -> Coroutine[object, object, None]:
    async def wait() -> None:
        await context.sleep(seconds)

    return wait()


def _struck(reply: Reply, struck: Struck) -> Answer:
    """What becomes of the reply on its way."""
    if FaultKind.CORRUPT_JSON in struck:
        reply = Reply(reply.status, corrupt(reply.body.decode()).encode(), reply.headers)
    if hang := struck.get(FaultKind.HANG):
        return Silence(hang.seconds)
    if FaultKind.LOSE_REPLY in struck:
        return Cut()
    return Cut(reply) if FaultKind.CUT_REPLY in struck else reply


def _credentials(authorization: str) -> tuple[str, str]:
    """Name and password of HTTP Basic (RFC 7617); RestError when there are none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _UNAUTHORIZED
    try:
        name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _UNAUTHORIZED from None
    if not colon:
        raise _UNAUTHORIZED
    return name, password
