"""From an NQN to what the kernel has of it: looks into sysfs off the event loop, full scans shared by their callers."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TypeVar

from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import as_look_error
from rds_csi.nvme.sessions import Namespace, Session, SessionIndex
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.workers import Workers

T = TypeVar("T")

# Seconds for one look into sysfs, also beside hundreds of sessions on a slow machine.
LOOK_SECONDS = 10.0


class DeviceResolver:
    """This host's NVMe sessions as they are now. Nothing that can change is remembered between two calls.

    Every method raises Unavailable, ResourceExhausted (out of descriptors or memory) or DeadlineExceeded when
    sysfs could not be looked at; absence is never concluded from that.
    """

    def __init__(self, host: HostPaths, workers: Workers) -> None:
        self.sysfs = NvmeSysfs(host)
        self._workers = workers
        # A scan that has begun, and one that has not.
        self._running: asyncio.Task[SessionIndex] | None = None
        self._next: asyncio.Task[SessionIndex] | None = None

    async def index(self) -> SessionIndex:
        """Every session, by a full scan that began after the call.

        Who asks while a scan is running shares the next one with all others who do.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._scan_after(self._running))
        # A caller who is cancelled takes the scan from nobody else.
        return await asyncio.shield(self._next)

    async def session(self, nqn: str) -> Session | None:
        """The session of ``nqn``; None when the kernel has none. Costs next to nothing more beside many others."""
        return await self._look(partial(self.sysfs.session, nqn))

    async def sessions(self, nqns: Collection[str]) -> Mapping[str, Session]:
        """The sessions of these by their NQNs, without those that have none; no other session costs anything.

        For who looks again and again: while a look is stuck in the kernel, the next ones are Unavailable at once.
        """
        if not nqns:
            return {}
        return await self._look(partial(self.sysfs.sessions, tuple(nqns)), key="sessions of NVMe in sysfs")

    async def list_connected_subsystems(self) -> tuple[str, ...]:
        """The NQNs of all subsystems with at least one controller, whatever its state."""
        index = await self.index()
        return tuple(nqn for nqn, sessions in index.by_nqn.items() if any(s.controllers for s in sessions))

    async def is_orphaned_subsystem(self, nqn: str) -> bool:
        """Whether ``nqn`` is connected, but without a namespace's device on a path that is live or coming.

        False for one without any controller: nothing is connected there that could be disconnected.
        """
        session = await self.session(nqn)
        return session is not None and session.is_orphaned

    async def resolve(self, nqn: str, *, nsid: int = 0, uuid: str = "") -> Namespace | None:
        """The namespace with that UUID, else with that NSID, else with NSID 1; None when ``nqn`` has no session
        that is live or may soon be, or not that namespace."""
        session = await self.session(nqn)
        if session is None or not (session.is_live or session.is_coming):
            return None
        return session.namespace(uuid, nsid)

    async def _scan_after(self, running: asyncio.Task[SessionIndex] | None) -> SessionIndex:
        if running is not None:
            await asyncio.wait((running,))
        # From here on it is too late to share this scan.
        self._running, self._next = self._next, None
        try:
            return await self._look(self.sysfs.scan, key="NVMe in sysfs")
        finally:
            self._running = None

    async def _look(self, function: Callable[[], T], *, key: str = "") -> T:
        """``key`` only where no caller's cancellation reaches: what was cancelled is looked at again at once."""
        try:
            return await self._workers.run(function, timeout=LOOK_SECONDS, key=key)
        except OSError as error:
            raise as_look_error("the NVMe sessions of this node cannot be looked at", error) from error
