"""The simulator: one device, its SSH and REST servers, faults on demand, and the credentials to get in."""

import asyncio
import contextlib
import shutil
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

from rds_csi.loopdev.devices import LoopDevices
from rds_csi.model.host import HostPaths
from rds_csi.simulator.background import Background
from rds_csi.simulator.conditions import Conditions
from rds_csi.simulator.consoles import Consoles
from rds_csi.simulator.context import Context
from rds_csi.simulator.control import ControlServer
from rds_csi.simulator.counters import Counters
from rds_csi.simulator.credentials import (
    Certificates,
    CredentialFiles,
    known_hosts_line,
    make_certificates,
    make_client_key,
    make_host_key,
    make_password,
    public_line,
    write_private,
)
from rds_csi.simulator.device import Device
from rds_csi.simulator.device_options import DeviceOptions, UserOptions
from rds_csi.simulator.faults import Faults
from rds_csi.simulator.latency import Relay
from rds_csi.simulator.nvmet import NvmetExports
from rds_csi.simulator.options import SimulatorOptions
from rds_csi.simulator.rest_server import RestServer
from rds_csi.simulator.ssh_server import ChannelRules, SshServer

__all__ = ["Simulator", "SimulatorOptions"]

# Behind a relay the servers themselves listen here.
_INNER_HOST = "127.0.0.1"


def _kernel_exports(options: SimulatorOptions) -> NvmetExports:
    return NvmetExports(options.nvmet_address, LoopDevices(HostPaths()), revalidates=options.nvmet_revalidates)


class Simulator:
    """An asynchronous context manager: inside it everything listens, afterwards nothing is left. ``device`` is there
    from its entry on.

    Made in no event loop in particular, it lives in the one in which it is entered. ``sleep`` is the clock of the
    device, of faults and of the REST server's cap; ``now`` is its monotonic counterpart, in seconds.
    """

    def __init__(
        self,
        options: SimulatorOptions,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], float] = time.monotonic,
        exports: Callable[[SimulatorOptions], NvmetExports] = _kernel_exports,
    ) -> None:
        """``exports`` makes what follows the exports of the device, where the options want that."""
        self.options = options
        self._exports = exports
        self.ssh_port = 0
        self.https_port = 0
        self.control_port = 0
        self._client_key = make_client_key()
        self._host_key = make_host_key(options.host_key)
        hosts = options.certificate_hosts or (*options.names_of(options.rest_host), "localhost")
        self._certificates: Certificates = make_certificates(hosts, options.certificate_days)
        self._sleep = sleep
        self._now = now
        self._device_options = self._with_credentials(options.device_options(options.directory or Path()))
        self.users: tuple[UserOptions, ...] = self._device_options.users
        self.counters = Counters()
        self.faults = Faults(options.faults, changed=self._faults_changed)
        self.device: Device
        self._conditions: Conditions | None = None
        self._context: Context
        self._background = Background()
        self._ssh: SshServer | None = None
        self._rest: RestServer | None = None

    @property
    def directory(self) -> Path:
        """Where the files of the device lie."""
        return self.device.options.directory

    @property
    def host_public_key(self) -> str:
        """The SSH host key in OpenSSH's one-line form."""
        return public_line(self._host_key)

    @property
    def client_key(self) -> bytes:
        """The private key of every user that brought none, in OpenSSH's form."""
        return self._client_key.export_private_key("openssh")

    @property
    def tls_fingerprint(self) -> str:
        """SHA-256 of the TLS certificate, 64 lower-case hex digits."""
        return self._certificates.fingerprint

    @property
    def tls_ca(self) -> bytes:
        """The certificate authority, PEM."""
        return self._certificates.authority

    def password(self, user: str) -> str:
        """The password of a user; KeyError when there is none of that name."""
        return {each.name: each.password for each in self.users}[user]

    def write_credentials(self, directory: Path) -> CredentialFiles:
        """Write what a client needs into ``directory``, which is made; needs the ports. Blocks; OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = CredentialFiles(
            client_key=directory / "client_key",
            known_hosts=directory / "known_hosts",
            password=directory / "password",
            users=directory / "users",
            tls_ca=directory / "ca.pem",
            tls_certificate=directory / "certificate.pem",
            fingerprint=self.tls_fingerprint,
        )
        kind, key = self.host_public_key.split()[:2]
        write_private(files.client_key, self.client_key)
        known = known_hosts_line(self.options.names_of(self.options.host), self.ssh_port, f"{kind} {key}")
        write_private(files.known_hosts, known.encode())
        write_private(files.password, f"{self.users[0].password}\n".encode())
        write_private(files.users, "".join(f"{user.name}:{user.password}\n" for user in self.users).encode())
        write_private(files.tls_ca, self._certificates.authority)
        write_private(files.tls_certificate, self._certificates.certificate)
        return files

    # Life.

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._make_device(stack)
            exports = self._exports(self.options) if self.options.nvmet_address else None
            if exports is not None:
                # Now, and not when the first disk is to be exported.
                exports.check()
                stack.push_async_callback(exports.close)
            # Before the exports go: jobs end first, which could export again.
            stack.push_async_callback(self.device.close)
            if exports is not None:
                await self._start_exports(exports)
            stack.push_async_callback(self._background.close)
            await self._start_ssh(stack)
            await self._start_rest(stack)
            await self._start_control(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def reboot(self, seconds: float = 0.0) -> None:
        """Every connection breaks, what runs ends where it is, nobody is let in for ``seconds``; the state stays.

        Returns when the device is there again.
        """
        self._context.goes_down()
        await self._reboot(seconds)

    async def _reboot(self, seconds: float) -> None:
        self._drop()
        try:
            self._context.consoles.forget()
            await self.device.reboot()
            if seconds:
                await self._context.sleep(seconds)
        finally:
            self._context.comes_up()

    def drop_connections(self) -> None:
        """Every connection breaks, and nothing else happens to the device; what runs goes on."""
        for server in (self._ssh, self._rest):
            if server is not None:
                server.drop_connections()

    def _begin_reboot(self, seconds: float) -> None:
        # From within a request: whoever asks must not wait for its own end.
        self._context.goes_down()
        self._background.spawn(self._reboot(seconds))

    def _drop(self) -> None:
        for server in (self._ssh, self._rest):
            if server is not None:
                server.drop()

    def _faults_changed(self) -> None:
        if self._conditions is not None:
            self._conditions.refresh()

    # Starting.

    def _make_device(self, stack: contextlib.AsyncExitStack) -> None:
        options = self._device_options
        if self.options.directory is None and self.options.device is None:
            temporary = tempfile.mkdtemp(prefix="rds-csi-simulator-")
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            options = replace(options, directory=Path(temporary))
        self.device = Device(options, sleep=self._sleep, monotonic=self._now)
        self._conditions = Conditions(self.device.switches, self.faults)
        self._conditions.refresh()
        self._context = Context(
            device=self.device,
            consoles=Consoles(self.device, sleep=self._sleep, now=self._now),
            faults=self.faults,
            conditions=self._conditions,
            counters=self.counters,
            reboot=self._begin_reboot,
            sleep=self._sleep,
        )

    def _with_credentials(self, options: DeviceOptions) -> DeviceOptions:
        key = public_line(self._client_key)
        users = [
            replace(user, password=user.password or make_password(), keys=user.keys or (key,)) for user in options.users
        ]
        return replace(options, users=tuple(users))

    async def _start_exports(self, exports: NvmetExports) -> None:
        for export in self.device.exports():
            await exports.changed(None, export)
        self.device.on_export_changed.append(exports.changed)

    async def _start_ssh(self, stack: contextlib.AsyncExitStack) -> None:
        options = self.options
        if options.ssh_port is None:
            return
        rules = ChannelRules(options.max_channels, options.channels_block, options.channel_delay)
        self._ssh = SshServer(
            self._context,
            self._host_key,
            rules=rules,
            exit_status=options.exit_status,
        )
        self.device.services.serve("ssh", options.max_sessions)
        stack.push_async_callback(self._ssh.close)
        self.ssh_port = await self._listen(stack, self._ssh.start, options.host, options.ssh_port)

    async def _start_rest(self, stack: contextlib.AsyncExitStack) -> None:
        options = self.options
        if options.https_port is None:
            return
        self._rest = RestServer(
            self._context,
            _server_tls(self._certificates),
            request_seconds=options.request_seconds,
        )
        self.device.services.serve("www-ssl", options.max_sessions)
        stack.push_async_callback(self._rest.close)
        self.https_port = await self._listen(stack, self._rest.start, options.rest_host, options.https_port)

    async def _start_control(self, stack: contextlib.AsyncExitStack) -> None:
        if self.options.control_port is None:
            return
        control = ControlServer(self._context)
        stack.push_async_callback(control.close)
        self.control_port = await control.start(self.options.control_host, self.options.control_port)

    async def _listen(
        self, stack: contextlib.AsyncExitStack, start: Callable[[str, int], Awaitable[int]], host: str, port: int
    ) -> int:
        if not self.options.latency:
            return await start(host, port)
        inner = await start(_INNER_HOST, 0)
        relay = Relay(self.options.latency)
        stack.push_async_callback(relay.close)
        return await relay.start(host, port, _INNER_HOST, inner)


def _server_tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2  # the newest that RouterOS has
    with tempfile.TemporaryDirectory(prefix="rds-csi-simulator-") as directory:
        chain, key = Path(directory, "certificate.pem"), Path(directory, "key.pem")
        write_private(chain, certificates.certificate)
        write_private(key, certificates.key)
        context.load_cert_chain(chain, key)
    return context
