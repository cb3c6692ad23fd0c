"""Waits over NVMe sessions: until one is usable, its device has appeared, or it has gone."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from rds_csi.connectors.nodes import BlockNodes
from rds_csi.errors import FailedPrecondition, Unavailable
from rds_csi.model.devices import Device
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import as_look_error
from rds_csi.model.targets import NvmeTarget
from rds_csi.nvme.sessions import Namespace, Session
from rds_csi.nvme.sysfs import NvmeSysfs
from rds_csi.retry import Clock, poll
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
# Seconds for one look into sysfs, also beside hundreds of sessions on a slow machine.
_LOOK_SECONDS = 10.0


class NvmeWaits:
    """Reads sessions off the event loop, and polls them (20 ms doubling to 500 ms)."""

    def __init__(self, host: HostPaths, workers: Workers, nodes: BlockNodes, clock: Clock) -> None:
        self.sysfs = NvmeSysfs(host)
        self._dev = host.dev
        self._workers = workers
        self._nodes = nodes
        self._clock = clock

    async def look(self, function: Callable[[], T]) -> T:
        """The result of a blocking look into sysfs or /dev; Unavailable or ResourceExhausted when it fails."""
        try:
            return await self.call(function)
        except OSError as error:
            raise as_look_error("the NVMe sessions of this node cannot be looked at", error) from error

    async def call(self, function: Callable[[], T]) -> T:
        """``look`` whose OSError is the caller's to judge."""
        return await self._workers.run(function, timeout=_LOOK_SECONDS)

    async def session(self, nqn: str) -> Session | None:
        """The session of ``nqn`` as it is now."""
        return await self.look(partial(self.sysfs.session, nqn))

    def device(self, namespace: Namespace) -> Device:
        """The block device of a namespace; its node is not looked at."""
        return Device(f"{self._dev}/{namespace.device}", namespace.number, namespace.size)

    async def usable_session(self, target: NvmeTarget) -> Session | None:
        """The live session of the target; None when there is none.

        One that is being connected is waited for, one that is being deleted is waited out. Unavailable when
        neither comes to an end.
        """
        last: Session | None = None

        async def settled() -> tuple[Session | None] | None:
            nonlocal last
            last = await self.session(target.nqn)
            if last is None or not last.controllers:
                return (None,)
            return (last,) if last.is_live else None

        found = await poll(settled, timeout=SETTLE_SECONDS, clock=self._clock)
        if found is not None:
            return found[0]
        assert last is not None
        raise Unavailable(
            f"the session of {target.nqn} is not live: {last.states}",
            remedy="The kernel goes on reconnecting; is the array up, and does it export the volume to this host?",
        )

    async def appeared(self, target: NvmeTarget) -> Device:
        """The device of the target, with its node in /dev, as soon as it is there.

        Unavailable when it does not come. FailedPrecondition when the session has namespaces, but not the one
        that is meant.
        """
        last: Session | None = None
        strange_since: float | None = None

        async def there() -> Device | None:
            nonlocal last, strange_since
            last = await self.session(target.nqn)
            if last is None or not last.controllers:
                raise Unavailable(f"the session of {target.nqn} went away before its device appeared")
            namespace = last.namespace(target.namespace_uuid)
            if namespace is not None and last.is_live and await self.has_node(namespace):
                return self.device(namespace)
            if last.is_live and last.namespaces and namespace is None:
                strange_since = self._clock.now() if strange_since is None else strange_since
                if self._clock.now() - strange_since >= STRANGER_SECONDS:
                    raise _stranger(target, last)
            else:
                strange_since = None
            return None

        device = await poll(there, timeout=DEVICE_SECONDS, clock=self._clock)
        if device is not None:
            return device
        assert last is not None
        raise Unavailable(
            f"no device of {target.nqn} appeared within {DEVICE_SECONDS:g} s: {last.states}",
            remedy="Look whether the array has the volume's namespace enabled; dmesg on this node tells more.",
        )

    async def has_node(self, namespace: Namespace) -> bool:
        """Whether /dev has the node of the namespace, with its number."""
        path = self.device(namespace).path
        return await self.look(partial(self._nodes.number_of, path)) == namespace.number

    async def gone(self, nqn: str) -> Session | None:
        """Wait until no controller of ``nqn`` is left; the session that is still there after the time."""
        last: Session | None = None

        async def look() -> bool | None:
            nonlocal last
            last = await self.session(nqn)
            return True if last is None or not last.controllers else None

        return None if await poll(look, timeout=GONE_SECONDS, clock=self._clock) else last


def _stranger(target: NvmeTarget, session: Session) -> FailedPrecondition:
    seen = ", ".join(f"NSID {ns.nsid} with UUID {ns.uuid or 'none'}" for ns in session.namespaces)
    wanted = f"UUID {target.namespace_uuid}" if target.namespace_uuid else "NSID 1"
    return FailedPrecondition(
        f"{target.nqn} has no namespace with {wanted}, but {seen}",
        remedy="The array exports another volume under this NQN; nothing was done with it.",
    )
