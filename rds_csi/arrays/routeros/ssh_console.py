"""The device's console over SSH: commands of many callers on one connection that is kept and renewed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rds_csi.arrays.routeros.errors import GarbageReply, LostReply, Unsent
from rds_csi.arrays.routeros.options import SshOptions
from rds_csi.arrays.routeros.pauses import DIAL_PACE, Pauses, again
from rds_csi.arrays.routeros.ssh_connection import SshConnection, SshCounters, SshTimes, dial
from rds_csi.deadline import remaining, within
from rds_csi.errors import DriverError, InvalidArgument
from rds_csi.logging import log
from rds_csi.retry import Clock, Pace
from rds_csi.workers import Workers

# Seconds for a command. A file of terabytes is allocated within one.
COMMAND_SECONDS = 60.0
# Bytes. Ten thousand disks are about ten million bytes of JSON.
OUTPUT_LIMIT = 64 << 20
# RouterOS: "max line length 65535 exceeded!".
MAX_SCRIPT_BYTES = 65535

# The cheapest command there is: neither a menu nor a policy is needed.
_CHECK = ":put ok"
_CHECK_ANSWER = "ok"
_CHECK_LIMIT = 1024

_CLOCK = Clock()
_TIMES = SshTimes()

logger = logging.getLogger(__name__)


class SshConsole:
    """Runs commands, at most ``options.channels`` at once, first come first served.

    The connection is made when it is needed, kept, and made anew after a failure; callers that need it at the
    same time share one attempt, and after a failed one they are told so at once until the pause is over.
    """

    def __init__(
        self,
        options: SshOptions,
        *,
        clock: Clock = _CLOCK,
        pace: Pace = DIAL_PACE,
        times: SshTimes = _TIMES,
        workers: Workers | None = None,
    ) -> None:
        # Their lines on lower levels hold commands and user names.
        logging.getLogger("asyncssh").setLevel(logging.WARNING)
        self.counters = SshCounters()
        self._options = options
        self._clock = clock
        self._times = times
        self._workers = workers or Workers(limit=2)
        self._pauses = Pauses(clock, pace)
        self._places = asyncio.Semaphore(options.channels)
        self._checking = asyncio.Lock()
        self._connection: SshConnection | None = None
        # Retired ones whose commands may still be running.
        self._retired: list[SshConnection] = []
        self._dialling: asyncio.Task[SshConnection | DriverError] | None = None
        self._closed = False

    @property
    def label(self) -> str:
        """``host:port``, for messages."""
        return f"{self._options.host}:{self._options.port}"

    async def run(
        self,
        script: str,
        *,
        timeout: float = COMMAND_SECONDS,
        output_limit: int = OUTPUT_LIMIT,
        whole: bool = False,
    ) -> str:
        """What the device prints for ``script`` (one line), its line ends plain.

        RouterOS reports errors in the output, with exit status 0: the caller's script must confirm its success.
        Unsent, NotTrusted: nothing was done. LostReply, GarbageReply: look first. Cancelled: as LostReply.
        ``whole``: only what comes before it is sent ends with the caller's deadline. A write that is cut off may be
        left half done, and costs the connection that others share.
        """
        _check_script(script)
        async with self._place():
            connection = await self._ready()
            return await connection.execute(
                script,
                opening=within(self._times.opening),
                timeout=timeout if whole else within(timeout),
                limit=output_limit,
            )

    async def close(self) -> None:
        """Close the connection; running and waiting commands fail. Leaves no task."""
        self._closed = True
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait({self._dialling})
        for connection in (*self._retired, *filter(None, [self._connection])):
            await connection.close()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the channels, for the block."""
        try:
            async with asyncio.timeout(within(self._times.place)):
                await self._places.acquire()
        except TimeoutError:
            raise Unsent(f"all {self._options.channels} channels to {self.label} stayed in use") from None
        try:
            yield
        finally:
            self._places.release()

    async def _ready(self) -> SshConnection:
        """A connection that can be trusted to be alive."""
        self._check_caller()
        connection = self._connection
        if connection is not None and connection.usable:
            if connection.silent() <= self._times.idle:
                return connection
            async with self._checking:
                # Whoever was here before may have checked it, or found it dead.
                if connection.usable and connection.silent() > self._times.idle:
                    await self._check_alive(connection)
            self._check_caller()
            if connection.usable:
                return connection
        return await self._dialled()

    def _check_caller(self) -> None:
        if self._closed:
            raise Unsent(f"the connection to {self.label} is closed for good")
        if remaining() == 0:
            raise Unsent(f"the caller's time was over before the command could be given to {self.label}")

    async def _check_alive(self, connection: SshConnection) -> None:
        """Retire a connection that is only half there: keepalives are not answered usefully by RouterOS."""
        seconds = within(self._times.check)
        self.counters.checks += 1
        try:
            answer = await connection.execute(_CHECK, opening=seconds, timeout=seconds, limit=_CHECK_LIMIT)
        except (Unsent, LostReply, GarbageReply) as error:
            log(logger, logging.INFO, "an idle connection is dead", array=self.label, reason=error.message)
            connection.retire()
        else:
            if answer.strip() != _CHECK_ANSWER:
                connection.retire()

    async def _dialled(self) -> SshConnection:
        """The connection of the one attempt that all callers share."""
        if self._connection is not None and self._connection.usable:
            return self._connection
        if self._dialling is None or self._dialling.done():
            self._pauses.check()
            self._dialling = asyncio.create_task(self._dial())
        task = self._dialling
        # Unlike wait_for, this leaves the attempt alone when its caller goes away.
        done, _ = await asyncio.wait({task}, timeout=within(2 * self._times.dial))
        if not done or task.cancelled():
            raise Unsent(f"no connection to {self.label} was made in time")
        result = task.result()
        if isinstance(result, DriverError):
            raise again(result)
        return result

    async def _dial(self) -> SshConnection | DriverError:
        """One attempt. Its failure is its result: nobody may be waiting for it any more."""
        try:
            connection, first_key = await dial(
                self._options,
                workers=self._workers,
                clock=self._clock,
                counters=self.counters,
                seconds=self._times.dial,
            )
        except DriverError as error:
            self._pauses.failed(error)
            return error
        if first_key:
            log(logger, logging.WARNING, "the first host key was accepted", array=self.label, fingerprint=first_key)
        self._pauses.succeeded()
        self._retired = [old for old in (*self._retired, *filter(None, [self._connection])) if not old.gone]
        self._connection = connection
        return connection


def _check_script(script: str) -> None:
    """InvalidArgument for what an exec cannot carry."""
    if "\n" in script or "\r" in script or "\0" in script:
        raise InvalidArgument("a command for RouterOS has to be one line")
    size = len(script.encode())
    if size > MAX_SCRIPT_BYTES:
        raise InvalidArgument(f"a command of {size} bytes is longer than RouterOS takes ({MAX_SCRIPT_BYTES})")
