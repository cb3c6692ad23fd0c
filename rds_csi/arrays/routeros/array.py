"""The arrays ``routeros+ssh://user@host/?pool=…`` and ``routeros+https://…``: a MikroTik ROSE Data Server."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits, Feature, Place
from rds_csi.arrays.routeros import adopting, growing, health, objects, removing
from rds_csi.arrays.routeros.attaching import Attaching
from rds_csi.arrays.routeros.btrfs import Subvolumes
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.copy_records import BeingCopied
from rds_csi.arrays.routeros.copying import Copies
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.groups import Groups
from rds_csi.arrays.routeros.lookups import Lookups
from rds_csi.arrays.routeros.mark import Kind
from rds_csi.arrays.routeros.objects import Adoption, ArrayObject, Nodes, ObjectKind, is_of_snapshot
from rds_csi.arrays.routeros.options import Fencing, RouterosOptions, SnapshotMeans, SshOptions, parse
from rds_csi.arrays.routeros.pool import Pool
from rds_csi.arrays.routeros.settling import UNSENT, Settling
from rds_csi.arrays.routeros.snapshots import Snapshots
from rds_csi.arrays.routeros.volumes import Volumes
from rds_csi.errors import DriverError
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    Snapshot,
    SnapshotGroup,
    Volume,
    VolumeSpec,
)
from rds_csi.retry import Clock, RetryPolicy
from rds_csi.tasks import finish
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PLAIN = Feature.EXPANSION | Feature.CAPACITY | Feature.HEALTH
_FEATURES = {
    SnapshotMeans.NONE: _PLAIN,
    SnapshotMeans.FILE_COPY: _PLAIN | Feature.SNAPSHOTS | Feature.CLONES,
    SnapshotMeans.BTRFS_SUBVOLUME: Feature.ALL,
}


def open_array(url: str, options: ArrayOptions) -> "RouterosArray":
    """The array at ``url``; ConfigurationError when the URL cannot work. Nothing is connected yet."""
    parsed = parse(url, options)
    return RouterosArray(parsed, open_client(parsed, options.workers))


def open_client(options: RouterosOptions, workers: Workers) -> Client:
    """The client for the URL's transport; its libraries are loaded only here."""
    if isinstance(options.transport, SshOptions):
        from rds_csi.arrays.routeros.ssh_client import SshClient  # noqa: PLC0415
        from rds_csi.arrays.routeros.ssh_console import SshConsole  # noqa: PLC0415

        return SshClient(SshConsole(options.transport, workers=workers), user=options.transport.user)
    from rds_csi.arrays.routeros.rest_client import RestClient  # noqa: PLC0415
    from rds_csi.arrays.routeros.rest_session import RestSession  # noqa: PLC0415

    return RestClient(RestSession(options.transport, workers=workers), user=options.transport.user)


def _today() -> datetime:
    return datetime.now(UTC)


class RouterosArray:
    """Volumes are ``type=file`` disks in one pool; the comments of the disks are the only database.

    Implements ``Array`` and ``objects.Inventory``.
    """

    def __init__(
        self,
        options: RouterosOptions,
        client: Client,
        *,
        clock: Clock | None = None,
        today: Callable[[], datetime] = _today,
        policy: RetryPolicy = UNSENT,
    ) -> None:
        self._options = options
        self._client = client
        self._lookups = Lookups(client, clock)
        self._pool = Pool(client, options, self._lookups, clock)
        settling = Settling(client, self._lookups, clock=clock, policy=policy)
        self._core = Core(options, client, pool=self._pool, lookups=self._lookups, settling=settling, clock=clock)
        self._volumes = Volumes(self._core)
        self._attaching = Attaching(self._core)
        self._copies = Copies(self._core, self._volumes, today=today, policy=policy)
        self._snapshots = Snapshots(
            self._core,
            self._volumes,
            subvolumes=Subvolumes(self._core, self._volumes),
            copies=self._copies,
            today=today,
        )
        self._groups = Groups(self._core, self._volumes, self._snapshots, today=today)
        self._first_contact: asyncio.Task[None] | None = None

    @property
    def options(self) -> RouterosOptions:
        """What the URL says."""
        return self._options

    @property
    def client(self) -> Client:
        """The way to the device."""
        return self._client

    @property
    def place(self) -> Place:
        """The device by its host, and the cluster that its disks' marks name."""
        return Place(self._options.transport.host.lower(), self._options.cluster)

    @property
    def traits(self) -> ArrayTraits:
        return ArrayTraits(
            name=f"RouterOS at {self._options.transport.host}, pool {self._options.pool}",
            features=_FEATURES[self._options.snapshots],
            needs_host_nqn=self._options.fencing is Fencing.ALLOW_HOST,
        )

    async def start(self) -> None:
        """Begin the first contact; an array that is away is told by ``check``, and found by the calls later."""
        if self._first_contact is None:
            self._first_contact = asyncio.get_running_loop().create_task(self._contact())

    async def close(self) -> None:
        if self._first_contact is not None:
            self._first_contact.cancel()
            await asyncio.gather(self._first_contact, return_exceptions=True)
        await self._pool.close()
        await self._lookups.close()
        await self._client.close()

    async def check(self) -> Sequence[Finding]:
        return await self._pool.findings()

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        self._pool.check_name(spec.pool)
        if spec.source is not None:
            return await finish(self._snapshots.restore(spec))
        return await finish(self._volumes.create(spec))

    async def delete_volume(self, volume_id: str) -> None:
        await self._copies_over(volume_id, lambda: self._volumes.delete(volume_id))

    async def get_volume(self, volume_id: str) -> Volume:
        return await self._volumes.get(volume_id)

    async def list_volumes(self) -> Sequence[Volume]:
        return await self._volumes.list_all()

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        owned = await self._copies_over(volume_id, lambda: growing.expand(self._core, volume_id, size))
        return self._volumes.volume(owned)

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        return self._volumes.volume(await finish(self._attaching.modify(volume_id, parameters)))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        owned = await self._copies_over(volume_id, lambda: self._attaching.attach(volume_id, attachment))
        return self._volumes.volume(owned)

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        await finish(self._attaching.detach(volume_id, node_id))

    # Snapshots

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        return await finish(self._snapshots.create(snapshot_id, name, volume_id))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await finish(self._snapshots.delete(snapshot_id))

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        return await self._snapshots.get(snapshot_id)

    async def list_snapshots(self) -> Sequence[Snapshot]:
        return await self._snapshots.list_all()

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        return await finish(self._groups.create(group_id, name, volume_ids))

    async def delete_group(self, group_id: str) -> None:
        await finish(self._groups.delete(group_id))

    async def get_group(self, group_id: str) -> SnapshotGroup:
        return await self._groups.get(group_id)

    # The whole

    async def capacity(self, pool: str) -> Capacity:
        return await self._pool.capacity(pool)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        return await health.problems(self._core, volume_id)

    async def list_objects(self) -> Sequence[ArrayObject]:
        """Everything of ours, or that may have been, for the orphan report."""
        site = await self._pool.writable()
        return await objects.list_objects(self._client, self._core.ownership, site.names)

    async def delete_object(self, item: ArrayObject) -> None:
        """Remove what a listing has shown (see ``objects.Inventory``)."""
        object_id, disk_id = item.object_id, item.incarnation
        if item.kind is ObjectKind.VOLUME:
            await self._copies_over(object_id, lambda: self._volumes.delete(object_id, disk_id))
        elif item.kind is ObjectKind.SNAPSHOT:
            await finish(self._snapshots.delete(object_id, disk_id))
        else:
            if self._options.snapshots is SnapshotMeans.FILE_COPY and is_of_snapshot(item, object_id):
                await finish(self._copies.cancel(object_id))
            await finish(removing.remove_leftover(self._core, item))

    async def adopt(self, slot: str, dry_run: bool, volume_id: str = "", nodes: Nodes = None) -> Adoption:
        """Make the disk in ``slot`` a volume (see ``adopting.adopt``)."""
        return await finish(
            adopting.adopt(self._core, self._volumes, slot, dry_run=dry_run, volume_id=volume_id, nodes=nodes)
        )

    async def _contact(self) -> None:
        try:
            await self._pool.site()
        except DriverError as error:
            _log.warning("the array cannot be used yet: %s", error)

    async def _copies_over(self, volume_id: str, step: Callable[[], Awaitable[T]]) -> T:
        """The step to its end; once more after a copy of the volume that its mark still names has been seen to be over.
        BeingCopied while one runs."""

        async def run() -> T:
            with contextlib.suppress(BeingCopied):
                return await step()
            await self._copies.settle(Kind.VOLUME, volume_id)
            return await step()

        return await finish(run())
