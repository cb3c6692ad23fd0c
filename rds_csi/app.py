"""The composition root: settings become objects, and the objects run in one task group until SIGTERM."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Flag, auto
from typing import Any

import anyio

from rds_csi import __version__
from rds_csi.arrays.protocol import Array, Feature
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.connectors.protocol import Connector
from rds_csi.edges import Edges
from rds_csi.kubernetes.cluster import open_cluster
from rds_csi.locks import LockFile, OperationLocks
from rds_csi.metrics import Metrics
from rds_csi.model.notices import announce_nothing
from rds_csi.model.volumes import Finding, Node
from rds_csi.parts import (
    Machine,
    check_state_dir,
    open_array,
    open_connector,
    open_filesystems,
    read_boot_id,
    topology_of,
)
from rds_csi.rpc.activity import activity_of, no_troubles
from rds_csi.rpc.server import CsiServer
from rds_csi.services.controller import ControllerService
from rds_csi.services.groups import GroupControllerService
from rds_csi.services.hosts import HostNqns
from rds_csi.services.identity import IdentityService
from rds_csi.services.node import NodeService
from rds_csi.services.nodes import LocalNodes, NamedNodes, NodeDirectory, encode_node_id
from rds_csi.services.observing import no_trouble
from rds_csi.services.staged import StagedVolumes
from rds_csi.settings import Settings
from rds_csi.upkeep import LOCK_FILE, Moved, Upkeep, any_moved, moved_by
from rds_csi.watch import Watch

log = logging.getLogger(__name__)


# Between two looks at all attachments: identities change when nodes are set up, which is seldom.
HOSTS_INTERVAL_SECONDS = 600.0


class Role(Flag):
    """Which halves of CSI a process serves."""

    CONTROLLER = auto()
    NODE = auto()
    ALL = CONTROLLER | NODE


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
        self._upkeep: Upkeep | None = None
        self._locks: list[OperationLocks] = []
        self._cluster = open_cluster(settings)
        self._announce = self._cluster.announce if self._cluster is not None else announce_nothing

    async def run(self, stop: anyio.Event, started: Callable[[], None] = lambda: None) -> None:
        """Serve until ``stop`` is set, then drain. ConfigurationError when something cannot be opened."""
        async with self._opened() as services:
            server = CsiServer(self._settings.endpoint, services, self._metrics, announce=self._announce)
            edges = self._edges()
            try:
                await edges.open()
                if self._upkeep is not None:
                    await _unless(stop, self._upkeep.before_serving)
                await server.start()
                await edges.serve()
                async with anyio.create_task_group() as tasks:
                    for watch in self._watches:
                        tasks.start_soon(watch.run)
                    if self._upkeep is not None:
                        tasks.start_soon(self._upkeep.run)
                    tasks.start_soon(edges.run)
                    log.info("serving %s as %s", self._settings.endpoint, self._role_name())
                    started()
                    await stop.wait()
                    log.info("stopping: running calls get %g s to finish", self._settings.shutdown_grace)
                    await edges.stop()
                    await server.drain(self._settings.shutdown_grace)
                    tasks.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    # Nothing is left to do here unless the server itself was cancelled or broke.
                    await server.drain(0)
                    await edges.close()
        log.info("stopped")

    def _edges(self) -> Edges:
        return Edges(
            self._settings,
            self._metrics,
            is_node=Role.NODE in self._role,
            cluster=self._cluster,
            problem=self._problem,
            operations=activity_of(self._locks, self._upkeep.troubles if self._upkeep is not None else no_troubles),
        )

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[list[Any]]:
        settings = self._settings
        async with contextlib.AsyncExitStack() as closing:
            connector = open_connector(settings, self._machine)
            closing.callback(connector.close)
            services: list[Any] = []
            if Role.CONTROLLER in self._role:
                self._array = open_array(settings, self._machine)
                await self._array.start()
                closing.push_async_callback(self._array.close)
            node = await self._node(connector, closing) if Role.NODE in self._role else None
            if self._array is not None:
                services += self._controller(self._array, connector, node)
            if node is not None:
                services.append(node)
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

    def _controller(self, array: Array, connector: Connector, node: NodeService | None) -> list[Any]:
        settings = self._settings
        nodes: NodeDirectory = (
            LocalNodes(Node(settings.node_id, connector.host_nqn))
            if node is not None
            else NamedNodes(needs_host_nqn=array.traits.needs_host_nqn)
        )
        locks = OperationLocks()
        self._locks.append(locks)
        hosts = HostNqns(array.list_volumes, self._metrics, self._announce)
        name = array.traits.name
        gauge = self._metrics.array_available.labels(name)
        self._watches += [
            Watch(f"array {name}", array.check, report=gauge.set),
            Watch("hosts", hosts.check, interval=HOSTS_INTERVAL_SECONDS),
        ]
        controller = ControllerService(
            array,
            connector,
            nodes,
            locks=locks,
            max_volumes_per_node=settings.max_volumes_per_node,
            topology=topology_of(settings),
            hosts=hosts,
            node_health=node.health_problems if node is not None else None,
        )
        if Feature.GROUP_SNAPSHOTS not in array.traits.features:
            return [controller]
        return [controller, GroupControllerService(array, locks=locks, topology=topology_of(settings))]

    async def _node(self, connector: Connector, closing: contextlib.AsyncExitStack) -> NodeService:
        settings = self._settings
        check_state_dir(settings.state_dir)
        filesystems, records = open_filesystems(settings, self._machine)
        boot_id = await read_boot_id(self._machine.host)
        shared = LockFile(os.path.join(settings.state_dir, LOCK_FILE))
        closing.callback(shared.close)
        locks = OperationLocks(shared)
        self._locks.append(locks)
        if isinstance(connector, NvmeConnector):
            self._upkeep = Upkeep(
                settings,
                self._machine,
                connector,
                records=records.all,
                staged=StagedVolumes(records, filesystems, boot_id),
                locks=locks,
                moved=self._moved(),
                boot_id=boot_id,
                announce=self._announce,
            )
        # One process knows its own host NQN; a controller elsewhere reads it from the node id.
        node_id = settings.node_id if self._array is not None else encode_node_id(settings.node_id, connector.host_nqn)

        async def check() -> list[Finding]:
            return [*await connector.check(), *await filesystems.check()]

        self._node_watch = Watch(f"node {settings.node_id}", check)
        self._watches.append(self._node_watch)
        return NodeService(
            node_id,
            connector,
            filesystems,
            records,
            locks=locks,
            max_volumes_per_node=settings.max_volumes_per_node,
            boot_id=boot_id,
            new_uuid=lambda: str(uuid.uuid4()),
            topology=topology_of(settings),
            trouble=self._upkeep.trouble if self._upkeep is not None else no_trouble,
        )

    def _moved(self) -> Moved:
        """Who knows which volumes are attached to other nodes only: the array where it is here, and the cluster."""
        known: list[Moved] = [self._cluster.moved] if self._cluster is not None else []
        if self._array is not None:
            known.append(moved_by(self._array, self._settings.node_id))
        return any_moved(known)

    async def _ready(self) -> bool:
        """A node is ready when its tools and modules are there; a controller also while its array is away."""
        return await self._node_watch.ready() if self._node_watch else True

    async def _problem(self) -> str:
        return await self._node_watch.problem() if self._node_watch else ""

    def _role_name(self) -> str:
        return {Role.CONTROLLER: "controller", Role.NODE: "node"}.get(self._role, "controller and node")


async def _unless(stop: anyio.Event, step: Callable[[], Awaitable[None]]) -> None:
    """Run ``step`` to its end, or until ``stop`` is set."""

    async def run() -> None:
        await step()
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await stop.wait()
        tasks.cancel_scope.cancel()


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
