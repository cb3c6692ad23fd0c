"""Real servers for the transports to RouterOS: SSH by asyncssh, HTTPS by asyncio and h11, and a relay between.

They know nothing of RouterOS: each test says what is answered, and where the server fails.
"""

import asyncio
import contextlib
import datetime
import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import h11
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = "127.0.0.1"


@dataclass
class Exec:
    """One command that a client gave: its text, and the means to answer it."""

    command: str
    channel: asyncssh.SSHServerChannel[bytes]
    connection: asyncssh.SSHServerConnection

    def answer(self, text: str, status: int | None = 0) -> None:
        """Print ``text``, then end; with ``status`` None without one, by end of file alone."""
        self.channel.write(text.encode())
        if status is None:
            self.channel.write_eof()
            self.channel.close()
        else:
            self.channel.exit(status)


async def _say_ok(command: Exec) -> None:
    command.answer("ok\r\n")


async def _let_in() -> None:
    return


class SshDevice:
    """An SSH server. ``on_open`` runs before a channel is confirmed, ``on_exec`` for each command; either may wait,
    raise ChannelOpenError, or abort the connection. ``refuse_exec``: the exec request itself is refused."""

    def __init__(self, directory: Path) -> None:
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.user_key = asyncssh.generate_private_key("ssh-ed25519")
        self.directory = directory
        self.port = 0
        self.on_exec: Callable[[Exec], Awaitable[None]] = _say_ok
        self.on_open: Callable[[], Awaitable[None]] = _let_in
        self.on_login: Callable[[asyncssh.SSHServerConnection], None] = lambda _: None
        self.refuse_exec = False
        self.commands: list[str] = []
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.open_now = 0
        self.open_at_most = 0
        self.tasks: set[asyncio.Task[None]] = set()
        self.key_file = directory / "key"
        self.known_hosts = directory / "known_hosts"
        self.key_file.write_bytes(self.user_key.export_private_key())

    def pin(self, key: asyncssh.SSHKey | None = None, port: int = 0) -> None:
        """Write the known-hosts file."""
        public = (key or self.host_key).export_public_key().decode()
        self.known_hosts.write_text(f"[{LOOPBACK}]:{port or self.port} {public}")

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["SshDevice"]:
        """Run on a free port for the block; the host key is pinned."""
        device = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                self._connection = conn
                device.connections.append(conn)

            def auth_completed(self) -> None:
                device.on_login(self._connection)

            def session_requested(self) -> "Awaitable[asyncssh.SSHServerSession[bytes]]":
                return device._open(self._connection)

        keys = asyncssh.import_authorized_keys(self.user_key.export_public_key().decode())
        acceptor = await asyncssh.listen(
            LOOPBACK,
            0,
            server_factory=Server,
            server_host_keys=[self.host_key],
            authorized_client_keys=keys,
            encoding=None,
            login_timeout=0,
        )
        self.port = acceptor.get_port()
        self.pin()
        try:
            yield self
        finally:
            acceptor.close()
            for connection in self.connections:
                connection.abort()
            for connection in self.connections:
                await connection.wait_closed()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await acceptor.wait_closed()

    async def _open(self, connection: asyncssh.SSHServerConnection) -> "asyncssh.SSHServerSession[bytes]":
        await self.on_open()
        return _Session(self, connection)


class _Session(asyncssh.SSHServerSession[bytes]):
    def __init__(self, device: SshDevice, connection: asyncssh.SSHServerConnection) -> None:
        self._device = device
        self._connection = connection
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        self._device.open_now += 1
        self._device.open_at_most = max(self._device.open_at_most, self._device.open_now)

    def connection_lost(self, exc: Exception | None) -> None:
        self._device.open_now -= 1

    def exec_requested(self, command: str) -> bool:
        if self._device.refuse_exec:
            return False
        assert self._channel is not None
        self._device.commands.append(command)
        task = asyncio.ensure_future(self._run(Exec(command, self._channel, self._connection)))
        self._device.tasks.add(task)
        task.add_done_callback(self._device.tasks.discard)
        return True

    async def _run(self, command: Exec) -> None:
        # After asyncssh has said that the request is granted.
        await asyncio.sleep(0)
        await self._device.on_exec(command)


@asynccontextmanager
async def tcp_server(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server that does ``serve`` with each connection and then closes it; its port."""
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.transport.abort()
        tasks.discard(task)

    server = await asyncio.start_server(run, LOOPBACK, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await server.wait_closed()


class Relay:
    """Passes bytes on to a server, until ``mute``: then the connections so far stay open and say nothing more."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._heard: list[asyncio.Event] = []

    def mute(self) -> None:
        """Let the present connections become half-open; later ones are well."""
        for event in self._heard:
            event.set()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Relay"]:
        """Run on a free port for the block."""
        async with tcp_server(self._relay) as self.port:
            yield self

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        muted = asyncio.Event()
        self._heard.append(muted)
        upstream, onwards = await asyncio.open_connection(LOOPBACK, self.target)
        pumps = [
            asyncio.ensure_future(self._pump(reader, onwards, muted)),
            asyncio.ensure_future(self._pump(upstream, writer, muted)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            onwards.transport.abort()
            with contextlib.suppress(OSError):
                await onwards.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, muted: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if not muted.is_set():
                writer.write(data)


@dataclass
class Authority:
    """A CA that makes certificates for tests."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        builder = self._builder(self._name, self.key, days=(-1, 1))
        self._certificate = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(
            self.key, hashes.SHA256()
        )
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: tuple[int, int]
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )

    def server_context(
        self, directory: Path, *, address: str = LOOPBACK, days: tuple[int, int] = (-1, 1)
    ) -> tuple[ssl.SSLContext, str]:
        """TLS for a server at ``address``, and its certificate's sha256."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        certificate = (
            self._builder(subject, key, days).add_extension(names, critical=False).sign(self.key, hashes.SHA256())
        )
        path = directory / f"server-{certificate.serial_number}.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context, hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


@dataclass
class Request:
    """One HTTP request as it arrived, and the means to answer it, or not."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    connection: h11.Connection

    def answer(self, status: int, body: object = None, *, content_type: str = "application/json") -> None:
        """A whole reply; ``body`` is bytes as they are, or made into JSON."""
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [("Content-Type", content_type), ("Content-Length", str(len(data)))]
        self.writer.write(self.connection.send(h11.Response(status_code=status, headers=headers)) or b"")
        if data:
            self.writer.write(self.connection.send(h11.Data(data=data)) or b"")
        self.writer.write(self.connection.send(h11.EndOfMessage()) or b"")

    def raw(self, data: bytes) -> None:
        """Bytes that need not be HTTP."""
        self.writer.write(data)


async def _empty_list(request: Request) -> None:
    request.answer(200, [])


class RestDevice:
    """An HTTPS server; ``on_request`` answers each request. Closes the connection when it left one unanswered."""

    def __init__(self) -> None:
        self.port = 0
        self.on_request: Callable[[Request], Awaitable[None]] = _empty_list
        self.requests: list[Request] = []
        self.connections = 0

    @asynccontextmanager
    async def serve(self, context: ssl.SSLContext) -> AsyncIterator["RestDevice"]:
        """Run on a free port for the block."""

        async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                await writer.start_tls(context)
                await self._talk(reader, writer)

        async with tcp_server(upgrade) as self.port:
            yield self

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while (request := await self._read(reader, writer, connection)) is not None:
            self.requests.append(request)
            await self.on_request(request)
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: h11.Connection
    ) -> Request | None:
        request: Request | None = None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                if not data:
                    return None
                connection.receive_data(data)
            elif isinstance(event, h11.Request):
                headers = {name.decode(): value.decode() for name, value in event.headers}
                request = Request(event.method.decode(), event.target.decode(), headers, b"", writer, connection)
            elif isinstance(event, h11.Data) and request is not None:
                request.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return request
            else:
                return None
