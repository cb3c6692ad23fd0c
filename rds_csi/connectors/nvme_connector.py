"""NVMe/TCP targets as block devices: look in sysfs first, connect what is missing, await the device."""

import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.blockdev.nodes import BlockNodes
from rds_csi.connectors import contexts
from rds_csi.connectors.budget import budget
from rds_csi.connectors.nvme_args import check_values
from rds_csi.connectors.nvme_growth import NvmeGrowth
from rds_csi.connectors.nvme_link import Link
from rds_csi.connectors.nvme_metrics import counted
from rds_csi.connectors.nvme_module import NvmeModule
from rds_csi.connectors.nvme_places import ConnectPlaces
from rds_csi.connectors.nvme_portals import PortalConnects, PortalTools
from rds_csi.connectors.nvme_probe import Probe, probe
from rds_csi.connectors.nvme_tuning import Tuning
from rds_csi.connectors.nvme_use import NvmeRemoval
from rds_csi.connectors.nvme_waits import NoNamespace, NvmeWaits
from rds_csi.connectors.protocol import Connected, ConnectorOptions
from rds_csi.errors import ConfigurationError, DriverError, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.targets import NvmeTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity, load_identity
from rds_csi.nvme.portal_probe import Resolve, resolve
from rds_csi.nvme.resolver import DeviceResolver
from rds_csi.nvme.sessions import Session
from rds_csi.nvme.uevents import Uevents
from rds_csi.progress import note
from rds_csi.retry import Clock, Failure, RetryPolicy, Transient, retry_transient
from rds_csi.tasks import finish

T = TypeVar("T")

_log = logging.getLogger(__name__)


class NvmeConnector:
    """The ``Connector`` over NVMe/TCP; ``link`` is how the kernel is told.

    ``resolver`` and ``uevents`` are shared with whoever follows the same sessions.
    """

    def __init__(
        self,
        options: ConnectorOptions,
        link: Link,
        *,
        nodes: BlockNodes | None = None,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
        uevents: Uevents | None = None,
        ask: Probe = probe,
        resolve: Resolve = resolve,
    ) -> None:
        """What is not given is the real one; a test brings its own."""
        self._options = options
        self._link = link
        self._retry = retry or RetryPolicy()
        self.resolver = DeviceResolver(options.host, options.workers)
        self.uevents = uevents or Uevents()
        block_nodes = nodes or BlockNodes()
        host, workers = options.host, options.workers
        self._waits = NvmeWaits(host, workers, block_nodes, clock or Clock(), self.resolver, self.uevents)
        self._removal = NvmeRemoval(host, workers, block_nodes, self._waits, link)
        self._tuning = Tuning(host, self.resolver.sysfs, workers)
        self._growth = NvmeGrowth(self._waits, self.resolver.sysfs, self._device_in)
        self._module = NvmeModule(host, options.runner)
        places = ConnectPlaces(options.max_connects, options.metrics)
        self._tools = PortalTools(
            link, self.resolver, self._waits, self._removal, self._tuning, places, options.metrics, ask, resolve
        )
        self._known_identity: HostIdentity | None = None

    @property
    def name(self) -> str:
        return self._link.name

    @property
    def host_nqn(self) -> str:
        """ConfigurationError when there is no identity and none can be kept."""
        return self._identity().hostnqn

    def volume_context(self, target: Target, config: ConnectionConfig) -> dict[str, str]:
        return contexts.write_context(self._expect(target), config)

    def read_context(self, context: Mapping[str, str]) -> tuple[Target, ConnectionConfig]:
        target, config = contexts.read_context(context)
        return self._expect(target), config

    async def connect(self, target: Target, config: ConnectionConfig) -> Connected:
        nvme = self._expect(target)
        with counted(self._options.metrics) as outcome:
            connects = await self._begin(nvme, config)
            outcome.reason_of(connects)
            await self._with_retry(connects)
            device = await self._or_undo(connects, self._device_of(nvme, config, connects))
            return Connected(device, created=connects.created)

    async def connect_with_retry(self, target: Target, config: ConnectionConfig) -> PortalConnects:
        """Make sure that there is a live session of the target: look first, connect what is missing, five attempts
        with growing pauses within the caller's deadline. The result tells what was made, and can undo it.

        Unavailable with portal, attempts and remedy when every attempt failed; any other error at once. A failed
        or cancelled call leaves nothing that it made.
        """
        connects = await self._begin(self._expect(target), config)
        await self._with_retry(connects)
        return connects

    async def attempt(self, target: NvmeTarget, config: ConnectionConfig) -> None:
        """One attempt to have every portal connected that the target names: all with native multipath, one without.

        The first failure is raised; what was connected all the same stays. A cancelled call leaves nothing whose
        end it did not see.
        """
        connects = await self._begin(target, config)
        try:
            await connects.complete()
        except DriverError:
            raise
        except BaseException:
            # What was seen to be made may be in use already: the volume is staged.
            await finish(self._undo(connects.undo_unseen()))
            raise

    async def drop(self, session: Session) -> None:
        """Disconnect the controllers that ``session`` names and see them gone; Unavailable when they stay. Nobody
        looks whether they are in use: that is the caller's to decide."""
        await finish(self._removal.remove(session))

    async def find(self, target: Target) -> Device | None:
        nvme = self._expect(target)
        return self._device_in(nvme, await self._waits.session(nvme.nqn))

    async def target_of(self, number: DeviceNumber) -> Target | None:
        nqn = await self._waits.look(partial(self.resolver.sysfs.nqn_of, number))
        session = await self._waits.session(nqn) if nqn else None
        return _target(session, number) if session is not None else None

    async def disconnect(self, target: Target) -> None:
        nvme = self._expect(target)
        session = await self._waits.session(nvme.nqn)
        if session is not None and session.controllers:
            await self._removal.remove_unused(session)

    async def rescan(self, target: Target, size: int) -> Device:
        return await self._growth.rescan(self._expect(target), size)

    async def health(self, target: Target) -> str:
        nvme = self._expect(target)
        session = await self._waits.session(nvme.nqn)
        if session is None or not session.controllers:
            return f"{nvme.nqn} is not connected"
        if not all(controller.is_live for controller in session.controllers):
            return f"not every path of {nvme.nqn} is up: {session.states}"
        if session.namespace(nvme.namespace_uuid) is None:
            return f"{nvme.nqn} is connected, but its namespace is not there"
        return ""

    async def check(self) -> Sequence[Finding]:
        return (*await self._link.check(), await self._module.ensure(), await self._check_identity())

    def close(self) -> None:
        self.uevents.close()

    def _expect(self, target: Target) -> NvmeTarget:
        return contexts.expect(target, NvmeTarget, self.name)

    def _identity(self) -> HostIdentity:
        if self._known_identity is None:
            self._known_identity = load_identity(self._options.host, self._options.state_dir)
        return self._known_identity

    async def _begin(self, target: NvmeTarget, config: ConnectionConfig) -> PortalConnects:
        module = await self._module.ensure()
        if not module.ok:
            raise FailedPrecondition(module.message, remedy=module.remedy)
        identity = self._known_identity
        if identity is None:
            identity = await self._waits.look(self._identity)
        check_values(target.nqn, identity.hostnqn, *target.addresses)
        return PortalConnects(self._tools, target, config, identity)

    async def _with_retry(self, connects: PortalConnects) -> None:
        def tell(failure: Failure) -> None:
            if budget(failure.delay) < failure.delay:
                raise _given_up(failure.error, failure.attempt, ", and the caller's deadline leaves no time for more")
            note("waiting for the next attempt", attempt=failure.attempt + 1)
            _log.warning("attempt %d, next in %.1f s: %s", failure.attempt, failure.delay, failure.error)

        async def retried() -> None:
            try:
                await retry_transient(connects.attempt, self._retry, notify=tell)
            except Transient as error:
                raise _given_up(error, connects.attempts) from error

        await self._or_undo(connects, retried())

    async def _or_undo(self, connects: PortalConnects, step: Awaitable[T]) -> T:
        try:
            return await step
        except BaseException:
            await finish(self._undo(connects.undo()))
            raise

    async def _device_of(self, target: NvmeTarget, config: ConnectionConfig, connects: PortalConnects) -> Device:
        """The device, once it is there. A session that was there without any namespace is made anew, once."""
        note("waiting for the device")
        try:
            device, session = await self._waits.appeared(target, fresh=connects.made)
        except NoNamespace:
            if connects.made:
                raise
            await self.disconnect(target)
            await self._with_retry(connects)
            note("waiting for the device")
            device, session = await self._waits.appeared(target, fresh=True)
        problems = await self._tuning.apply(session, config, fresh=True) if connects.made else ()
        if problems:
            raise FailedPrecondition("; ".join(problems), remedy="Leave out the parameter on this kernel.")
        return device

    async def _undo(self, step: Awaitable[None]) -> None:
        """Disconnect what a failed or cancelled call has made, by ``step``; a failure of that is only logged,
        because the call's own error is what the caller is to see."""
        try:
            await step
        except DriverError as error:
            _log.warning("a session may be left: %s", error)

    def _device_in(self, target: NvmeTarget, session: Session | None) -> Device | None:
        namespace = session.namespace(target.namespace_uuid) if session is not None else None
        if namespace is None or not self._waits.has_node(namespace):
            return None
        return self._waits.device(namespace)

    async def _check_identity(self) -> Finding:
        try:
            identity = await self._waits.look(self._identity)
        except ConfigurationError as error:
            return Finding("host identity", False, error.message, error.remedy)
        except DriverError as error:
            return Finding("host identity", False, error.message)
        return Finding("host identity", True, f"{identity.hostnqn} (from {identity.source})")


def _given_up(error: Transient, attempts: int, why: str = "") -> Unavailable:
    return Unavailable(f"{error.message}, after {attempts} attempts{why}", remedy=error.remedy)


def _target(session: Session, number: DeviceNumber) -> NvmeTarget | None:
    namespace = next((ns for ns in session.namespaces if ns.number == number), None)
    paths = [c for c in session.controllers if c.transport == "tcp" and c.traddr and c.trsvcid.isdecimal()]
    if namespace is None or not paths:
        return None
    addresses = tuple(dict.fromkeys(controller.traddr for controller in paths))
    try:
        return NvmeTarget(session.nqn, addresses, int(paths[0].trsvcid), namespace.uuid)
    except InvalidArgument:
        # A name that the specification does not allow: not a subsystem of ours.
        return None
