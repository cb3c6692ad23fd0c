"""One SSH connection to the device: dialled, used by several commands at once, given up after a failure."""

import asyncio
import getpass
import os
from dataclasses import dataclass

import asyncssh

from rds_csi.arrays.routeros.errors import BadCredentials, GarbageReply, LostReply, Unsent
from rds_csi.arrays.routeros.options import SshOptions
from rds_csi.arrays.routeros.secrets import read_file
from rds_csi.arrays.routeros.ssh_channel import CommandSession
from rds_csi.arrays.routeros.ssh_errors import dial_error
from rds_csi.arrays.routeros.ssh_host_keys import HostKeyPin
from rds_csi.errors import DeadlineExceeded, DriverError
from rds_csi.retry import Clock
from rds_csi.workers import Workers

# Seconds for the few small files that a connection needs.
_FILES_SECONDS = 5.0
# What is asked for first, before asyncssh's own order ("^"): with ChaCha20, which it would take, a command costs a
# fifth more of the processor.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
# Seconds for saying goodbye.
_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class SshTimes:
    """Deadlines in seconds.

    ``dial``: TCP, host key and login. ``opening``: a channel (RouterOS has been seen to block here, lessons,
    I20). ``place``: waiting for one of the channels. ``idle``: silence after which a connection is checked
    before it is trusted, within ``check``.
    """

    dial: float = 10.0
    opening: float = 10.0
    place: float = 120.0
    idle: float = 60.0
    check: float = 5.0


@dataclass(slots=True)
class SshCounters:
    """What was asked of the device: connections made, channels asked for, commands sent, and how many of the
    commands were only checks of an idle connection."""

    connections: int = 0
    channels: int = 0
    execs: int = 0
    checks: int = 0


class _Client(asyncssh.SSHClient):
    def __init__(self, pin: HostKeyPin) -> None:
        self._pin = pin

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        return self._pin.accepts(host, addr, port, key)


class SshConnection:
    """A connection. ``retire`` keeps new commands away from it; it is closed when the last running one ends."""

    def __init__(self, link: asyncssh.SSHClientConnection, label: str, clock: Clock, counters: SshCounters) -> None:
        self._link = link
        self._label = label
        self._clock = clock
        self._counters = counters
        self._commands = 0
        self._retired = False
        # When the device last said something.
        self._heard = clock.now()

    @property
    def gone(self) -> bool:
        """Whether nothing of it is left."""
        return self._link.is_closed()

    @property
    def usable(self) -> bool:
        """Whether new commands may be given to it."""
        return not self._retired and not self._link.is_closed()

    def silent(self) -> float:
        """Seconds since the device last answered here."""
        return self._clock.now() - self._heard

    def retire(self) -> None:
        """Take no more commands, and close once the running ones have ended."""
        self._retired = True
        if not self._commands:
            self._link.abort()

    async def close(self) -> None:
        """Close now; running commands fail with LostReply."""
        self._retired = True
        self._link.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._link.wait_closed()
        except TimeoutError:
            self._link.abort()

    async def execute(self, script: str, *, opening: float, timeout: float, limit: int) -> str:
        """The output of one command, which has ``opening`` seconds for its channel and then ``timeout``.

        Unsent, LostReply or GarbageReply; after each but a refused channel the connection is retired.
        """
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(opening)

        def opened() -> None:
            scope.reschedule(loop.time() + timeout)
            self._counters.execs += session.sent

        session = CommandSession(limit, opened)
        self._commands += 1
        self._counters.channels += 1
        try:
            async with scope:
                await self._link.create_session(
                    lambda: session, script, encoding=None, request_pty=False, x11_forwarding=False
                )
                await session.ended.wait()
            return self._answer(session)
        except TimeoutError:
            self._retired = True
            raise self._timed_out(session, opening, timeout) from None
        except asyncssh.ChannelOpenError as error:
            raise self._not_opened(session, error) from None
        except (asyncssh.Error, OSError) as error:
            self._retired = True
            raise self._broken(session, str(error)) from None
        except AttributeError:
            # asyncssh 2.24, when the channel was closed in the very moment in which it was ready.
            if not session.ended.is_set():
                raise
            self._retired = True
            raise self._broken(session, "the channel was closed while it was opened") from None
        except asyncio.CancelledError:
            # A channel that is asked for and not there yet cannot be taken back.
            self._retired = self._retired or not session.sent
            raise
        finally:
            session.abort()
            self._commands -= 1
            if self._retired and not self._commands:
                self._link.abort()

    def _answer(self, session: CommandSession) -> str:
        if session.too_long:
            raise GarbageReply(f"{self._label} answers with more than is ever expected; the command may be done")
        if not session.complete:
            self._retired = True
            raise self._broken(session, "the channel was closed in the middle")
        self._heard = self._clock.now()
        if session.exit_status:
            # Seen on no device so far, which is why nothing is concluded from it (facts on RouterOS, 2.3).
            last = (session.stdout + session.stderr).strip().rpartition("\n")[2][:200]
            raise LostReply(f"{self._label} ended the command with status {session.exit_status}: {last}")
        return session.stdout

    def _timed_out(self, session: CommandSession, opening: float, timeout: float) -> DriverError:
        if session.sent:
            return LostReply(f"{self._label} did not answer the command within {timeout:.3g} s")
        return Unsent(f"{self._label} did not open a channel within {opening:.3g} s")

    def _not_opened(self, session: CommandSession, error: asyncssh.ChannelOpenError) -> DriverError:
        if self._link.is_closed() or (session.sent and session.ended.is_set()):
            self._retired = True
            return self._broken(session, error.reason)
        # Also when the exec request itself was refused: then nothing was run.
        return Unsent(
            f"{self._label} opens no channel: {error.reason}",
            remedy="Look at max-sessions in /ip/service, or lower channels in the array's URL.",
        )

    def _broken(self, session: CommandSession, reason: str) -> DriverError:
        kind = LostReply if session.sent else Unsent
        return kind(f"the connection to {self._label} broke while a command was given: {reason}")


async def dial(
    options: SshOptions, *, workers: Workers, clock: Clock, counters: SshCounters, seconds: float
) -> tuple[SshConnection, str]:
    """A new connection, and the fingerprint of the host key if it was accepted as the first one, else "".

    The files are read each time, so that rotated ones count. Unsent, BadCredentials or HostKeyMismatch.
    """
    label = f"{options.host}:{options.port}"

    def read() -> tuple[asyncssh.SSHKey, HostKeyPin]:
        return _private_key(options.key_file), HostKeyPin(
            options.known_hosts, accept_first=options.accept_first_host_key
        )

    try:
        key, pin = await workers.run(read, timeout=_FILES_SECONDS, key=options.key_file)
    except DeadlineExceeded as error:
        raise Unsent(error.message) from None
    counters.connections += 1
    try:
        async with asyncio.timeout(seconds):
            link = await _connect(options, key, pin)
    except asyncssh.HostKeyNotVerifiable:
        raise pin.refusal(label) from None
    except (asyncssh.Error, OSError, ValueError) as error:
        raise dial_error(error, label, options.user) from None
    kept = False
    try:
        kept = await workers.run(
            lambda: pin.keep(options.host, options.port), timeout=_FILES_SECONDS, key=options.known_hosts
        )
    except BaseException:
        link.abort()
        raise
    return SshConnection(link, label, clock, counters), pin.fingerprint() if kept else ""


async def _connect(options: SshOptions, key: asyncssh.SSHKey, pin: HostKeyPin) -> asyncssh.SSHClientConnection:
    """Nothing of this host's or user's SSH set-up counts: neither configuration, agent nor default keys."""
    _have_user_name()
    return await asyncssh.connect(
        options.host,
        options.port,
        config=None,
        client_factory=lambda: _Client(pin),
        known_hosts=pin.known,
        username=options.user,
        client_keys=[key],
        agent_path=None,
        preferred_auth="publickey",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_auth=False,
        gss_kex=False,
        x509_trusted_certs=None,
        x509_trusted_cert_paths=[],
        encryption_algs=_CIPHERS,
        # The scope around this call is what limits it.
        login_timeout=0,
    )


def _have_user_name() -> None:
    """This process has a user with a name, as asyncssh insists, which does nothing with it; in a container the user is
    often but a number."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = "rds-csi"


def _private_key(path: str) -> asyncssh.SSHKey:
    data = read_file(path, "the key file")
    try:
        return asyncssh.import_private_key(data)
    except asyncssh.KeyEncryptionError:
        reason, remedy = "is protected by a passphrase", "Use a key of its own for the driver, without one."
    except (asyncssh.KeyImportError, ValueError):
        reason, remedy = "is no private key", "RouterOS takes Ed25519 (since 7.12) and RSA keys."
    raise BadCredentials(f"the key file {path} {reason}", remedy=remedy)
