"""What a node does about its NVMe sessions besides answering calls: keeps those of staged volumes, sweeps orphans."""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from rds_csi.arrays.protocol import Array
from rds_csi.blockdev.users import DeviceUsers
from rds_csi.connectors.nvme_connector import NvmeConnector
from rds_csi.errors import DriverError
from rds_csi.locks import OperationLocks
from rds_csi.model.notices import Announce, announce_nothing
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import NvmeTarget, Target
from rds_csi.nvme.keeper import SessionKeeper
from rds_csi.nvme.orphans import OrphanCleaner
from rds_csi.nvme.session_metrics import SessionFigures
from rds_csi.nvme.sightings import FILE_NAME, Sightings
from rds_csi.parts import Machine
from rds_csi.services.nodes import name_of
from rds_csi.settings import Settings

log = logging.getLogger(__name__)

# Seconds. The socket answers after this long, however far the sweep has come (design, section 6).
FIRST_SWEEP_SECONDS = 120.0

Records = Callable[[], Awaitable[Sequence[StageRecord]]]
Moved = Callable[[], Awaitable[frozenset[str]]]


# The lock file of the state directory, which servers and the ``sweep`` command share.
LOCK_FILE = "locks"


class Upkeep:
    """The background work of a node whose connector has NVMe sessions."""

    def __init__(
        self,
        settings: Settings,
        machine: Machine,
        connector: NvmeConnector,
        *,
        records: Records,
        staged: Records,
        locks: OperationLocks,
        moved: Moved,
        boot_id: str,
        announce: Announce = announce_nothing,
    ) -> None:
        """``records`` gives all stage records, ``staged`` those of volumes that are staged now; ``locks`` are the node
        service's; ``moved`` the NQNs of volumes that are known to be attached elsewhere and not here;
        ``announce`` is told of outages and of orphans that were cut."""
        self._interval = settings.sweep_interval
        self._keeper = SessionKeeper(
            connector.resolver,
            connector.uevents,
            staged=staged,
            attempt=connector.attempt,
            drop=connector.disconnect,
            locks=locks,
            metrics=machine.metrics,
            announce=announce,
        )
        self._cleaner = OrphanCleaner(
            connector.resolver,
            DeviceUsers(machine.host, machine.workers),
            Sightings(machine.workers, path=os.path.join(settings.state_dir, FILE_NAME), boot_id=boot_id),
            disconnect=connector.drop,
            staged=records,
            locks=locks,
            moved=moved,
            prefix=settings.nqn_prefix,
            grace=settings.grace,
            sweep_unused=settings.sweep_unused,
            dry_run=settings.dry_run,
            metrics=machine.metrics,
            announce=announce,
        )
        machine.metrics.before_scrape(SessionFigures(connector.resolver, machine.metrics, settings.nqn_prefix).refresh)

    def trouble(self, target: Target) -> str:
        """What is being done about the session of ``target``, in one sentence; "" when all is well."""
        return self._keeper.trouble(target.nqn) if isinstance(target, NvmeTarget) else ""

    async def troubles(self) -> Mapping[str, str]:
        """The same for every staged volume that has any, by NQN."""
        return self._keeper.troubles()

    async def before_serving(self, seconds: float = FIRST_SWEEP_SECONDS) -> None:
        """The first sweep, before a call can come: best effort, whatever happens the server starts."""
        with anyio.move_on_after(seconds) as scope:
            await self._cleaner.attempt()
        if scope.cancelled_caught:
            log.warning("the first sweep was given up after %g s; the next one goes on", seconds)

    async def run(self) -> None:
        """For ever: keep the sessions of staged volumes, and sweep."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keeper.run)
            if self._interval > 0:
                tasks.start_soon(self._cleaner.run, self._interval)


def any_moved(known: Sequence[Moved]) -> Moved:
    """What any of ``known`` tells; nothing where nobody knows."""

    async def moved() -> frozenset[str]:
        answers: list[frozenset[str]] = []

        async def ask(one: Moved) -> None:
            answers.append(await one())

        async with anyio.create_task_group() as tasks:
            for one in known:
                tasks.start_soon(ask, one)
        return frozenset().union(*answers)

    return moved


def moved_by(array: Array, node_id: str) -> Moved:
    """The NQNs of volumes that the array has attached to other nodes and not to this one; none while it is away.

    Nodes are told apart by their names: an attachment of when this node had another host NQN, or was served by a
    process of its own, which tells it in the node's id, is this node's all the same.
    """

    async def moved() -> frozenset[str]:
        try:
            volumes = await array.list_volumes()
        except DriverError as error:
            log.debug("the array does not tell what is attached elsewhere: %s", error)
            return frozenset()
        return frozenset(
            volume.target.nqn
            for volume in volumes
            if isinstance(volume.target, NvmeTarget)
            and volume.attachments
            and all(name_of(item.node.node_id) != name_of(node_id) for item in volume.attachments)
        )

    return moved
