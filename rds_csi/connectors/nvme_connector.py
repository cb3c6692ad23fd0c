"""NVMe/TCP targets as block devices: look in sysfs first, connect what is missing, await the device."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from rds_csi.connectors import contexts
from rds_csi.connectors.nodes import BlockNodes
from rds_csi.connectors.nvme_link import Link
from rds_csi.connectors.nvme_module import NvmeModule
from rds_csi.connectors.nvme_portals import PortalConnects
from rds_csi.connectors.nvme_waits import NvmeWaits
from rds_csi.connectors.protocol import Connected, ConnectorOptions
from rds_csi.connectors.usage import why_in_use
from rds_csi.errors import (
    ConfigurationError,
    DeadlineExceeded,
    DriverError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.oserrors import as_look_error
from rds_csi.model.targets import NvmeTarget, Target
from rds_csi.model.volumes import Finding
from rds_csi.nvme.identity import HostIdentity, load_identity
from rds_csi.nvme.sessions import OFF, Session
from rds_csi.retry import Clock, Failure, RetryPolicy, Transient, poll, retry_transient
from rds_csi.tasks import finish

_log = logging.getLogger(__name__)

# Seconds an exclusive open may take; it touches the device only when its partitions were never read.
_CLAIM_SECONDS = 5.0
# Seconds for the kernel to see a new size: the notice of the target usually comes within 0.2 s.
_GROW_SECONDS = 30.0
# Seconds for a new size to show where nobody knows whether there is one.
_LOOK_ANEW_SECONDS = 1.0


class NvmeConnector:
    """The ``Connector`` over NVMe/TCP; ``link`` is how the kernel is told."""

    def __init__(
        self,
        options: ConnectorOptions,
        link: Link,
        *,
        nodes: BlockNodes | None = None,
        clock: Clock | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        """``nodes``, ``clock`` and ``retry`` are the real ones unless a test brings its own."""
        self._options = options
        self._host = options.host
        self._link = link
        self._nodes = nodes or BlockNodes()
        self._clock = clock or Clock()
        self._retry = retry or RetryPolicy()
        self._waits = NvmeWaits(options.host, options.workers, self._nodes, self._clock)
        self._module = NvmeModule(options.host, options.runner, options.workers)
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
        module = await self._module.ensure()
        if not module.ok:
            raise FailedPrecondition(module.message, remedy=module.remedy)
        identity = await self._waits.look(self._identity)
        connects = PortalConnects(self._link, self._waits, nvme, config, identity)
        try:
            await self._connect_with_retry(connects)
            if connects.made:
                await self._apply_fast_io_fail(nvme, config)
            device = await self._waits.appeared(nvme)
        except BaseException:
            if connects.made:
                await finish(self._undo(nvme))
            raise
        return Connected(device, created=connects.made)

    async def find(self, target: Target) -> Device | None:
        nvme = self._expect(target)
        session = await self._waits.session(nvme.nqn)
        namespace = session.namespace(nvme.namespace_uuid) if session is not None else None
        if namespace is None or not await self._waits.has_node(namespace):
            return None
        return self._waits.device(namespace)

    async def target_of(self, number: DeviceNumber) -> Target | None:
        nqn = await self._waits.look(partial(self._waits.sysfs.nqn_of, number))
        session = await self._waits.session(nqn) if nqn else None
        return _target(session, number) if session is not None else None

    async def disconnect(self, target: Target) -> None:
        nvme = self._expect(target)
        session = await self._waits.session(nvme.nqn)
        if session is None or not session.controllers:
            return
        reason = await self._why_in_use(session)
        if reason:
            raise FailedPrecondition(
                f"{nvme.nqn} stays connected, because {reason}", remedy="Unmount or stop that first."
            )
        last_line = await self._link.disconnect(nvme.nqn)
        left = await self._waits.gone(nvme.nqn)
        if left is not None:
            raise Unavailable(
                f"{nvme.nqn} is still connected after its disconnect: {left.states} ({self.name}: {last_line})",
                remedy="The call is repeated by itself; dmesg on this node tells what the kernel waits for.",
            )

    async def rescan(self, target: Target, size: int) -> Device:
        nvme = self._expect(target)
        session = await self._waits.session(nvme.nqn)
        if session is None or not session.controllers:
            raise Unavailable(f"{nvme.nqn} is not connected", remedy="Stage the volume anew.")
        before = await self.find(nvme)
        if before is not None and 0 < size <= before.size:
            return before
        await self._waits.look(partial(self._rescan_controllers, session))
        if not size and before is not None:
            return await self._seen_anew(nvme, before)

        async def grown() -> Device | None:
            device = await self.find(nvme)
            return device if device is not None and device.size >= size else None

        device = await poll(grown, timeout=_GROW_SECONDS, clock=self._clock)
        if device is None and await self.find(nvme) is None:
            raise _vanished(nvme)
        if device is None:
            raise DeadlineExceeded(
                f"the device of {nvme.nqn} did not grow to {size} bytes: {session.states}",
                remedy="Look whether the array has grown the volume and its session is live, then repeat.",
            )
        return device

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

    def _expect(self, target: Target) -> NvmeTarget:
        return contexts.expect(target, NvmeTarget, self.name)

    def _identity(self) -> HostIdentity:
        if self._known_identity is None:
            self._known_identity = load_identity(self._host, self._options.state_dir)
        return self._known_identity

    async def _connect_with_retry(self, connects: PortalConnects) -> None:
        def tell(failure: Failure) -> None:
            _log.warning("attempt %d, next in %.1f s: %s", failure.attempt, failure.delay, failure.error)

        try:
            await retry_transient(connects.attempt, self._retry, notify=tell)
        except Transient as error:
            raise Unavailable(f"{error.message}, after {self._retry.attempts} attempts", remedy=error.remedy) from error

    async def _apply_fast_io_fail(self, target: NvmeTarget, config: ConnectionConfig) -> None:
        """nvme-cli 2.3 has no option for it; the kernel lets it be written."""
        if config.fast_io_fail_tmo == OFF:
            return
        session = await self._waits.session(target.nqn)
        for controller in session.controllers if session is not None else ():
            write = partial(self._waits.sysfs.write, controller.name, "fast_io_fail_tmo", str(config.fast_io_fail_tmo))
            try:
                await self._waits.call(write)
            except OSError as error:
                raise FailedPrecondition(
                    f"fast_io_fail_tmo cannot be set for {controller.name} of {target.nqn}: {error.strerror}",
                    remedy="Leave out fastIoFailTmo on this kernel.",
                ) from error

    async def _undo(self, target: NvmeTarget) -> None:
        """Disconnect what a failed or cancelled ``connect`` has made; a failure of that is only logged, because
        the connect's own error is what the caller is to see."""
        try:
            await self.disconnect(target)
        except DriverError as error:
            _log.warning("a session of %s may be left: %s", target.nqn, error)

    async def _why_in_use(self, session: Session) -> str:
        for namespace in session.namespaces:
            device = self._waits.device(namespace)
            look = partial(why_in_use, self._host, namespace.device, device.path, self._nodes)
            try:
                reason = await self._options.workers.run(look, timeout=_CLAIM_SECONDS, key=f"open of {device.path}")
            except OSError as error:
                raise as_look_error(f"whether {device.path} is in use cannot be told", error) from error
            if reason:
                return f"of {device.path}: {reason}"
        return ""

    async def _seen_anew(self, target: NvmeTarget, before: Device) -> Device:
        """The device some time after a rescan, or as soon as it has another size; Unavailable when it went."""

        async def resized() -> Device | None:
            device = await self.find(target)
            return device if device is not None and device.size != before.size else None

        device = await poll(resized, timeout=_LOOK_ANEW_SECONDS, clock=self._clock) or await self.find(target)
        if device is None:
            raise _vanished(target)
        return device

    def _rescan_controllers(self, session: Session) -> None:
        for controller in session.controllers:
            try:
                self._waits.sysfs.write(controller.name, "rescan_controller", "1")
            except OSError as error:
                # One path of several may be going away; the size is what counts, and that is awaited.
                _log.info("%s was not rescanned: %s", controller.name, error.strerror)

    async def _check_identity(self) -> Finding:
        try:
            identity = await self._waits.look(self._identity)
        except ConfigurationError as error:
            return Finding("host identity", False, error.message, error.remedy)
        except DriverError as error:
            return Finding("host identity", False, error.message)
        return Finding("host identity", True, f"{identity.hostnqn} (from {identity.source})")


def _vanished(target: NvmeTarget) -> Unavailable:
    return Unavailable(f"the device of {target.nqn} vanished while it was looked at anew")


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
