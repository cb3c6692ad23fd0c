"""The composition root: settings become objects, and the objects run in one task group until SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from enum import Flag, auto
from importlib.metadata import entry_points
from typing import Any

import aiofiles
import anyio

from rds_csi import __version__
from rds_csi.arrays.protocol import Array, ArrayOptions, Feature
from rds_csi.connectors.protocol import Connector, ConnectorOptions
from rds_csi.errors import ConfigurationError
from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.metered import MeteredRunner
from rds_csi.metrics import Metrics
from rds_csi.model.connection import nearest
from rds_csi.model.host import HostPaths
from rds_csi.model.volumes import Finding, Node
from rds_csi.process import ProcessRunner, Runner
from rds_csi.rpc.http import HttpEndpoint
from rds_csi.rpc.server import CsiServer
from rds_csi.services.controller import ControllerService
from rds_csi.services.groups import GroupControllerService
from rds_csi.services.identity import IdentityService
from rds_csi.services.node import NodeService
from rds_csi.services.nodes import LocalNodes, NamedNodes, NodeDirectory, encode_node_id
from rds_csi.settings import Settings
from rds_csi.watch import Watch
from rds_csi.workers import Workers

log = logging.getLogger(__name__)

ARRAYS = "rds_csi.arrays"
CONNECTORS = "rds_csi.connectors"

# A connector that makes up its devices needs filesystems that are made up too.
MEMORY_CONNECTOR = "memory"


class Role(Flag):
    """Which halves of CSI a process serves."""

    CONTROLLER = auto()
    NODE = auto()
    ALL = CONTROLLER | NODE


@dataclass(frozen=True, slots=True)
class Machine:
    """What everything that touches this machine shares."""

    runner: Runner
    workers: Workers
    host: HostPaths

    @classmethod
    def of(cls, settings: Settings, metrics: Metrics) -> "Machine":
        """This machine, with the host's trees where the settings say; what is run on it is metered."""
        return cls(MeteredRunner(ProcessRunner(), metrics), Workers(), HostPaths(settings.host_root))


def _load_backend(group: str, name: str, what: str) -> Any:
    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        hint = nearest(name, sorted(found))
        raise ConfigurationError(f"there is no {what} {name!r}{hint}", remedy=f"Known are {', '.join(sorted(found))}.")
    return found[name].load()


def open_array(settings: Settings, machine: Machine) -> Array:
    """The array that the URL names, not yet started."""
    scheme, separator, _ = settings.array.partition("://")
    if not separator:
        raise ConfigurationError(f"--array {settings.array!r} is not a URL", remedy="It reads local:///dir, for one.")
    options = ArrayOptions(machine.runner, machine.workers, machine.host, settings.nqn_prefix)
    array: Array = _load_backend(ARRAYS, scheme, "array")(settings.array, options)
    return array


def open_connector(settings: Settings, machine: Machine) -> Connector:
    """The connector that the settings name."""
    options = ConnectorOptions(machine.runner, machine.workers, machine.host, settings.state_dir)
    connector: Connector = _load_backend(CONNECTORS, settings.connector_name, "connector")(options)
    return connector


def open_filesystems(settings: Settings, machine: Machine) -> tuple[Filesystems, StageRecords]:
    """This machine's filesystems and the stage records in the state directory; made up for ``memory``."""
    if settings.connector_name == MEMORY_CONNECTOR:
        from rds_csi.filesystem.memory import MemoryFilesystems, MemoryStageRecords

        return MemoryFilesystems(), MemoryStageRecords()
    from rds_csi.filesystem.host import HostFilesystems
    from rds_csi.filesystem.records import FileStageRecords

    return HostFilesystems(machine.runner, machine.workers, machine.host), FileStageRecords(
        os.path.join(settings.state_dir, "volumes"), machine.workers
    )


def topology_of(settings: Settings) -> dict[str, str]:
    """The one topology segment of this node: a local file is reached on its own machine only, a subsystem
    from every node that speaks NVMe/TCP."""
    if settings.connector_name in ("loop", MEMORY_CONNECTOR):
        return {f"topology.{settings.driver_name}/node": settings.node_id}
    return {f"topology.{settings.driver_name}/transport": "nvme-tcp"}


def check_state_dir(path: str) -> None:
    """Make the state directory when it is missing; ConfigurationError when nothing can be written there.

    Told at start: the first stage would be too late, and a record that cannot be written protects nothing.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"nothing can be written to --state-dir {path}: {error.strerror}",
            remedy="Name a directory of the host that survives a restart of the container.",
        ) from None


async def read_boot_id(host: HostPaths) -> str:
    """/proc/sys/kernel/random/boot_id (random(4)): another one after every boot."""
    try:
        async with aiofiles.open(os.path.join(host.proc, "sys/kernel/random/boot_id"), encoding="ascii") as stream:
            return (await stream.read()).strip()
    except OSError as error:
        raise ConfigurationError(
            f"the boot id cannot be read: {error}", remedy="Look whether --host-root has the host's /proc."
        ) from None


class Server:
    """One CSI server of a role: composed from settings, started, and drained in order."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self._settings = settings
        self._role = role
        self._metrics = Metrics()
        self._machine = Machine.of(settings, self._metrics)
        self._array: Array | None = None
        self._watches: list[Watch] = []
        self._node_watch: Watch | None = None

    async def run(self, stop: anyio.Event, started: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set, then drain. ConfigurationError when something cannot be opened."""
        async with self._opened() as services:
            server = CsiServer(self._settings.endpoint, services, self._metrics)
            http = HttpEndpoint(self._settings.http_endpoint, self._metrics, healthy=_no_problem, ready=self._problem)
            await http.start()
            await server.start()
            try:
                async with anyio.create_task_group() as tasks:
                    for watch in self._watches:
                        tasks.start_soon(watch.run)
                    log.info("serving %s as %s", self._settings.endpoint, self._role_name())
                    started()
                    await stop.wait()
                    log.info("stopping: running calls get %g s to finish", self._settings.shutdown_grace)
                    await server.drain(self._settings.shutdown_grace)
                    tasks.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    # Nothing is left to do here unless the server itself was cancelled or broke.
                    await server.drain(0)
                    await http.close()
        log.info("stopped")

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[list[Any]]:
        settings = self._settings
        connector = open_connector(settings, self._machine)
        services: list[Any] = []
        if Role.CONTROLLER in self._role:
            self._array = open_array(settings, self._machine)
            await self._array.start()
        try:
            locks = OperationLocks()
            if self._array is not None:
                services += self._controller(self._array, connector, locks)
                name = self._array.traits.name
                gauge = self._metrics.array_available.labels(name)
                self._watches.append(Watch(f"array {name}", self._array.check, report=gauge.set))
            if Role.NODE in self._role:
                services.append(await self._node(connector))
            # A node serves volumes of an array that it does not know: its half is there for all of them.
            features = self._array.traits.features if self._array is not None else Feature.ALL
            services.append(
                IdentityService(
                    settings.driver_name,
                    __version__,
                    controller=Role.CONTROLLER in self._role,
                    group=Role.CONTROLLER in self._role and Feature.GROUP_SNAPSHOTS in features,
                    snapshots=Feature.SNAPSHOTS in features,
                    expansion=Feature.EXPANSION in features,
                    readiness=self._ready,
                )
            )
            yield services
        finally:
            if self._array is not None:
                await self._array.close()

    def _controller(self, array: Array, connector: Connector, locks: OperationLocks) -> list[Any]:
        settings = self._settings
        nodes: NodeDirectory = (
            LocalNodes(Node(settings.node_id, connector.host_nqn))
            if Role.NODE in self._role
            else NamedNodes(needs_host_nqn=array.traits.needs_host_nqn)
        )
        controller = ControllerService(
            array,
            connector,
            nodes,
            locks=locks,
            max_volumes_per_node=settings.max_volumes_per_node,
            topology=topology_of(settings),
        )
        if Feature.GROUP_SNAPSHOTS not in array.traits.features:
            return [controller]
        return [controller, GroupControllerService(array, locks=locks, topology=topology_of(settings))]

    async def _node(self, connector: Connector) -> NodeService:
        settings = self._settings
        check_state_dir(settings.state_dir)
        filesystems, records = open_filesystems(settings, self._machine)
        # One process knows its own host NQN; a controller elsewhere reads it from the node id.
        node_id = (
            settings.node_id if Role.CONTROLLER in self._role else encode_node_id(settings.node_id, connector.host_nqn)
        )
        node = NodeService(
            node_id,
            connector,
            filesystems,
            records,
            locks=OperationLocks(),
            max_volumes_per_node=settings.max_volumes_per_node,
            boot_id=await read_boot_id(self._machine.host),
            new_uuid=lambda: str(uuid.uuid4()),
            topology=topology_of(settings),
        )

        async def check() -> list[Finding]:
            return [*await connector.check(), *await filesystems.check()]

        self._node_watch = Watch(f"node {settings.node_id}", check)
        self._watches.append(self._node_watch)
        return node

    async def _ready(self) -> bool:
        """A node is ready when its tools and modules are there; a controller also while its array is away."""
        return await self._node_watch.ready() if self._node_watch else True

    async def _problem(self) -> str:
        return await self._node_watch.problem() if self._node_watch else ""

    def _role_name(self) -> str:
        return {Role.CONTROLLER: "controller", Role.NODE: "node"}.get(self._role, "controller and node")


async def _no_problem() -> str:
    # Whoever can answer is alive.
    return ""


async def serve(settings: Settings, role: Role) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return."""
    stop = anyio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Server(settings, role).run(stop, started=_settle)


def _settle() -> None:
    """What start-up made lives for ever: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
