"""The SSH server: users let in by key, scripts run by exec, what they print on stdout, and no terminal."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

import asyncssh

from rds_csi.simulator.background import Background
from rds_csi.simulator.context import Context
from rds_csi.simulator.faults import FaultKind, Stage
from rds_csi.simulator.menus.users import User
from rds_csi.simulator.ssh_session import ExecSession

_SERVER = "ssh"
# RouterOS takes no other keys of users: ECDSA is refused when it is imported.
_USER_KEYS = frozenset({"ssh-rsa", "ssh-ed25519"})
_LOGIN_SECONDS = 60.0
_BACKLOG = 256


@dataclass(frozen=True, slots=True)
class ChannelRules:
    """How channels are opened; see SimulatorOptions."""

    max_channels: int
    block: bool
    delay: float


class SshServer:
    """asyncssh in front of the console."""

    def __init__(
        self,
        context: Context,
        host_key: asyncssh.SSHKey,
        *,
        rules: ChannelRules,
        exit_status: int,
    ) -> None:
        self.context = context
        self.rules = rules
        self.exit_status = exit_status
        self.running = Background()
        self._host_key = host_key
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._connections: set[_Connection] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. OSError when that cannot be."""
        self._acceptor = await asyncssh.create_server(
            lambda: _Connection(self),
            host,
            port,
            server_host_keys=[self._host_key],
            backlog=_BACKLOG,
            login_timeout=_LOGIN_SECONDS,
            keepalive_interval=0,
            encoding=None,
            allow_pty=False,
            line_editor=False,
            agent_forwarding=False,
            x11_forwarding=False,
            kbdint_auth=False,
            gss_host=None,
            server_version="ROSSSH",
        )
        return int(self._acceptor.get_port())

    def joined(self, connection: "_Connection", peer: str) -> bool:
        """Whether the new connection from that IP address may stay."""
        self.context.counters.ssh_connections += 1
        if not self.context.admits(_SERVER, peer, len(self._connections)):
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: "_Connection") -> None:
        """The connection is over."""
        self._connections.discard(connection)

    def drop_connections(self) -> None:
        """Break every connection; what runs goes on."""
        for connection in tuple(self._connections):
            connection.drop()

    def drop(self) -> None:
        """Break every connection and end what runs, as a reboot does."""
        self.drop_connections()
        self.running.cancel()

    async def close(self) -> None:
        """Listen no more, break every connection, end what runs."""
        if self._acceptor is not None:
            self._acceptor.close()
        while self._connections:
            self.drop()
            # asyncssh gives its sockets back in the loop's next turns.
            await asyncio.sleep(0)
        await self.running.close()
        if self._acceptor is not None:
            await self._acceptor.wait_closed()
        await asyncio.sleep(0)


class _Connection(asyncssh.SSHServer):
    """One client: its login, and the channels that it opens."""

    def __init__(self, server: SshServer) -> None:
        self._server = server
        self._transport: asyncssh.SSHServerConnection | None = None
        self._peer = ""
        self._entered = ""
        self._channels = 0
        # Set when a channel has closed, and when the connection has.
        self._freed = asyncio.Event()
        self.gone = asyncio.Event()
        self.user: User | None = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._transport = conn
        address = conn.get_extra_info("peername")
        self._peer = str(address[0]) if address else ""
        if not self._server.joined(self, self._peer):
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended does not matter
        self.gone.set()
        self._freed.set()
        self._server.left(self)
        if self._entered:
            self._server.context.device.active.leave(self._entered)

    def drop(self) -> None:
        """Break it, without a word."""
        if self._transport is not None:
            self._transport.abort()

    # Who it is.

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - nobody comes in without
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        user = self._known(username)
        line = key.export_public_key("openssh").split()
        # A key that is imported may have a comment; what counts is the key.
        known = user is not None and any(each.encode().split()[:2] == line[:2] for each in user.keys)
        return self._let_in(user, well=known and key.get_algorithm() in _USER_KEYS)

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        user = self._known(username)
        # A user who has a key has no password here: password-authentication=yes-if-no-key.
        well = user is not None and not user.keys and user.may_use(password)
        return self._let_in(user, well=well)

    def auth_completed(self) -> None:
        assert self.user is not None
        self._server.context.counters.logins += 1
        self._entered = self._server.context.device.active.enter(self.user, self._peer, _SERVER)

    def _known(self, name: str) -> User | None:
        # "csi+ct511w" is the user csi with wishes for a terminal.
        return self._server.context.device.user(name.partition("+")[0])

    def _let_in(self, user: User | None, *, well: bool) -> bool:
        if user is None or not well or "ssh" not in user.policies or not user.may_come_from(self._peer):
            self._server.context.counters.denials += 1
            return False
        self.user = user
        return True

    # Channels.

    def session_requested(self) -> "_Opening":
        return _Opening(self._open_channel)

    async def _open_channel(self) -> ExecSession:
        context, rules = self._server.context, self._server.rules
        context.counters.channels += 1
        blocked = context.faults.strike(Stage.CHANNEL, _SERVER).get(FaultKind.CHANNEL_OPEN_BLOCKED)
        if blocked is not None:
            await (context.sleep(blocked.seconds) if blocked.seconds else self.gone.wait())
        if rules.delay:
            await context.sleep(rules.delay)
        while self._channels >= rules.max_channels and not self.gone.is_set():
            if not rules.block:
                raise asyncssh.ChannelOpenError(asyncssh.OPEN_RESOURCE_SHORTAGE, "too many channels")
            self._freed.clear()
            await self._freed.wait()
        if self.gone.is_set():
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection is closed")
        self._channels += 1
        return ExecSession(context, self, self._server.running, self._server.exit_status)

    def channel_closed(self) -> None:
        """One channel fewer."""
        self._channels -= 1
        self._freed.set()


class _Opening(Awaitable[ExecSession]):
    """The opening of a channel, which begins when it is awaited.

    A connection that breaks before that never awaits it, and Python complains of a coroutine that nobody did.
    """

    def __init__(self, begin: Callable[[], Awaitable[ExecSession]]) -> None:
        self._begin = begin

    def __await__(self) -> Generator[Any, None, ExecSession]:
        return self._begin().__await__()
