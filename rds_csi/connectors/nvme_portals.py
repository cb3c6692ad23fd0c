"""Connecting the portals of one target: all of them where native multipath joins them, else one that works."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from functools import partial

from rds_csi.connectors.nvme_failures import Reason, failure
from rds_csi.connectors.nvme_link import Link, Outcome
from rds_csi.connectors.nvme_waits import NvmeWaits
from rds_csi.errors import DeadlineExceeded, DriverError
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.identity import HostIdentity
from rds_csi.retry import Transient

# Resolves a host name to an IP address; blocking.
Resolve = Callable[[str, int], str]


def resolve(name: str, port: int) -> str:
    """The first address of ``name``. OSError (socket.gaierror) when it has none.

    nvme-cli is built without a resolver on some systems (Debian 12), so it is always given an address.
    """
    return str(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][4][0])


class PortalConnects:
    """The attempts of one call to connect one target; remembers what the call has made, so that it can be undone."""

    def __init__(
        self,
        link: Link,
        waits: NvmeWaits,
        target: NvmeTarget,
        config: ConnectionConfig,
        identity: HostIdentity,
        *,
        resolve: Resolve = resolve,
    ) -> None:
        self._link = link
        self._waits = waits
        self._target = target
        self._config = config
        self._identity = identity
        self._resolve = resolve
        self._made: set[str] = set()
        self._unseen: set[str] = set()

    @property
    def made(self) -> bool:
        """Whether there may be a controller by this call: made, or one whose end was not seen, because the connect
        was killed after its deadline or by a cancellation. Nothing was there when the call began."""
        return bool(self._made or self._unseen)

    async def attempt(self) -> None:
        """Make sure that there is a live session; Transient when another attempt may help."""
        if await self._waits.usable_session(self._target) is not None:
            return
        if await self._waits.look(self._waits.sysfs.native_multipath):
            errors = await self._connect_all()
        else:
            errors = await self._connect_one()
        if len(errors) == len(self._target.addresses):
            raise next((error for error in errors if isinstance(error, Transient)), errors[0])
        if await self._waits.usable_session(self._target) is None:
            # "Already connected" is not believed: the other's session may have been on its way out.
            portal = f"{self._target.addresses[0]}:{self._target.port}"
            raise failure(Reason.ALREADY, portal, self._target.nqn, "no session is there")

    async def _connect_all(self) -> list[DriverError]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._connect(address)) for address in self._target.addresses]
        return [error for task in tasks if (error := task.result()) is not None]

    async def _connect_one(self) -> list[DriverError]:
        errors = []
        for address in self._target.addresses:
            error = await self._connect(address)
            if error is None:
                break
            errors.append(error)
        return errors

    async def _connect(self, name: str) -> DriverError | None:
        """Connect one portal; its failure, or None. Never raises a DriverError: the others go on."""
        portal = f"{name}:{self._target.port}"
        try:
            address = await self._address(name)
        except (OSError, DeadlineExceeded) as error:
            return failure(Reason.UNRESOLVED, portal, self._target.nqn, str(error))
        self._unseen.add(name)
        try:
            outcome = await self._link.connect(self._target, address, self._config, self._identity)
        except OSError as error:
            # No process could be started: no memory, no descriptor, no process number was left.
            self._unseen.discard(name)
            return failure(Reason.BUSY, portal, self._target.nqn, str(error))
        except DeadlineExceeded as error:
            return failure(Reason.TIMED_OUT, portal, self._target.nqn, error.message)
        except DriverError as error:
            self._unseen.discard(name)
            return error
        self._unseen.discard(name)
        if outcome is Outcome.MADE:
            self._made.add(name)
        return None

    async def _address(self, name: str) -> str:
        try:
            return str(ipaddress.ip_address(name))
        except ValueError:
            return await self._waits.call(partial(self._resolve, name, self._target.port))
