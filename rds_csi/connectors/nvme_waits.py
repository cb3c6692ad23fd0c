"""Waits over NVMe sessions: until one is usable, its device has appeared, or it has gone."""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.connectors.budget import budget
from rds_csi.errors import DriverError, FailedPrecondition, Unavailable
from rds_csi.model.devices import Device
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import as_look_error
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Namespace, Session
from rds_csi.nvme.uevents import Uevent, Uevents
from rds_csi.retry import Clock, Pace, poll
from rds_csi.workers import Workers

T = TypeVar("T")

# Seconds. A session that was away comes back within one reconnect_delay (5 s) of its array's return.
SETTLE_SECONDS = 30.0
# Seconds from the connect to a usable device node: the kernel scans namespaces on its own time.
DEVICE_SECONDS = 30.0
# Seconds a live session may show only other namespaces before that is believed: a scan takes them in turn.
STRANGER_SECONDS = 2.0
# Seconds. "deleting" lasts about 0.1 s, longer while I/O is outstanding.
GONE_SECONDS = 10.0
# Between the kernel's uevents, and where there are none.
PACE = Pace(first=0.05, largest=0.5)
_NO_DEVICE_REMEDY = "Look whether the array has the volume's namespace enabled; dmesg on this node tells more."
# Seconds for one look into sysfs, also beside hundreds of sessions on a slow machine.
_LOOK_SECONDS = 10.0


class NoNamespace(Unavailable):
    """The session is live and has no namespace at all."""


class NvmeWaits:
    """Reads sessions off the event loop, and waits for their changes: by uevents, and by polling between them."""

    def __init__(
        self,
        host: HostPaths,
        workers: Workers,
        nodes: BlockNodes,
        clock: Clock,
        resolver: DeviceResolver,
        uevents: Uevents,
    ) -> None:
        self._dev = host.dev
        self._workers = workers
        self._nodes = nodes
        self._clock = clock
        self._resolver = resolver
        self._uevents = uevents

    async def look(self, function: Callable[[], T]) -> T:
        """The result of a blocking look into sysfs or /dev; Unavailable or ResourceExhausted when it fails."""
        try:
            return await self.call(function)
        except OSError as error:
            raise _as_error(error) from error

    async def call(self, function: Callable[[], T]) -> T:
        """``look`` whose OSError is the caller's to judge."""
        return await self._workers.run(function, timeout=_LOOK_SECONDS)

    async def session(self, nqn: str) -> Session | None:
        """The session of ``nqn`` as it is now."""
        return await self._resolver.session(nqn)

    def device(self, namespace: Namespace) -> Device:
        """The block device of a namespace; its node is not looked at."""
        return Device(f"{self._dev}/{namespace.device}", namespace.number, namespace.size)

    async def until(
        self, nqn: str, judge: Callable[[Session | None], Awaitable[T | None]], *, timeout: float
    ) -> T | None:
        """What ``judge`` says of the session of ``nqn``, as soon as it is not None; None after ``timeout`` seconds.

        Looks at once, then at every uevent of this session: those of others wake nobody here.
        """
        names: set[str] = set()

        def wanted(event: Uevent) -> bool:
            # Before the first look came back, nobody knows which names are meant.
            return not names or not names.isdisjoint(event.devpath.split("/"))

        async def look() -> T | None:
            session = await self.session(nqn)
            if session is not None:
                names.update((session.subsystem, *(controller.name for controller in session.controllers)))
            return await judge(session)

        with self._uevents.listening(wanted, sleep=self._clock.sleep) as bell:
            return await poll(look, timeout=timeout, clock=Clock(self._clock.now, bell.sleep), pace=PACE)

    async def appeared(self, target: NvmeTarget, *, fresh: bool) -> tuple[Device, Session]:
        """The device of the target, with its node in /dev, as soon as it is there; and the session it is of.

        Unavailable when it does not come: NoNamespace when the session shows none at all, which is believed soon
        of a session that is not ``fresh``. FailedPrecondition when there are namespaces, but not the one that is
        meant.
        """
        last: Session | None = None
        strange_since: float | None = None

        async def there(session: Session | None) -> tuple[Device, Session] | None:
            nonlocal last, strange_since
            last = session
            if session is None or not session.controllers:
                raise Unavailable(f"the session of {target.nqn} went away before its device appeared")
            namespace = session.namespace(target.namespace_uuid)
            if namespace is not None or not session.is_live:
                strange_since = None
                usable = namespace is not None and session.is_live and self.has_node(namespace)
                return (self.device(namespace), session) if usable and namespace is not None else None
            strange_since = self._clock.now() if strange_since is None else strange_since
            if self._clock.now() - strange_since >= STRANGER_SECONDS:
                _refuse(target, session, fresh=fresh)
            return None

        seconds = budget(DEVICE_SECONDS)
        found = await self.until(target.nqn, there, timeout=seconds)
        if found is not None:
            return found
        assert last is not None
        raise Unavailable(
            f"no device of {target.nqn} appeared within {seconds:.3g} s: {last.states}", remedy=_NO_DEVICE_REMEDY
        )

    def has_node(self, namespace: Namespace) -> bool:
        """Whether /dev has the node of the namespace, with its number. stat(2) in devtmpfs asks no device: it costs
        less than waking a thread for it. Errors as ``look``."""
        try:
            return self._nodes.number_of(self.device(namespace).path) == namespace.number
        except OSError as error:
            raise _as_error(error) from error

    async def gone(self, nqn: str, names: Collection[str]) -> Session | None:
        """Wait until none of the controllers ``names`` of ``nqn`` is left; the session that still has one after
        the time. The caller's deadline does not count: what was begun is seen to its end."""
        last: Session | None = None

        async def look(session: Session | None) -> bool | None:
            nonlocal last
            last = session
            return None if session is not None and any(c.name in names for c in session.controllers) else True

        return None if await self.until(nqn, look, timeout=GONE_SECONDS) else last


def _as_error(error: OSError) -> DriverError:
    return as_look_error("the NVMe sessions of this node cannot be looked at", error)


def _refuse(target: NvmeTarget, session: Session, *, fresh: bool) -> None:
    """Raise what a session without the namespace that is meant deserves; a fresh one without any gets more time."""
    if session.namespaces:
        seen = ", ".join(f"NSID {ns.nsid} with UUID {ns.uuid or 'none'}" for ns in session.namespaces)
        wanted = f"UUID {target.namespace_uuid}" if target.namespace_uuid else "NSID 1"
        raise FailedPrecondition(
            f"{target.nqn} has no namespace with {wanted}, but {seen}",
            remedy="The array exports another volume under this NQN; nothing was done with it.",
        )
    if not fresh:
        raise NoNamespace(f"{target.nqn} is connected, but has no namespace", remedy=_NO_DEVICE_REMEDY)
