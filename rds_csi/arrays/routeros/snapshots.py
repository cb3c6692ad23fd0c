"""Snapshots: found, listed and removed in one way, taken and restored by the means that the array's URL chooses."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from rds_csi.arrays.routeros.btrfs import Subvolumes, make_ready
from rds_csi.arrays.routeros.commands import RemoveDisk, Step
from rds_csi.arrays.routeros.copy_records import Copy, check_idle, copies_of
from rds_csi.arrays.routeros.copying import Copies, kind_of
from rds_csi.arrays.routeros.core import Core, check_nothing_left
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.routeros.ownership import Owned, Taken
from rds_csi.arrays.routeros.removing import check_same
from rds_csi.arrays.routeros.volumes import Volumes, appeared, clear
from rds_csi.errors import AlreadyExists, FailedPrecondition, NotFound, Unimplemented
from rds_csi.model.sizes import MIB, round_up
from rds_csi.model.volumes import Snapshot, Volume, VolumeSpec

SNAPSHOT = Kind.SNAPSHOT


@dataclass(frozen=True, slots=True)
class Group:
    """What the members of a group have in common."""

    group_id: str
    name: str
    created: datetime


class Snapshots:
    """The snapshots on the array; each is a disk that is never exported."""

    def __init__(
        self, core: Core, volumes: Volumes, *, subvolumes: Subvolumes, copies: Copies, today: Callable[[], datetime]
    ) -> None:
        self._core = core
        self._volumes = volumes
        self._subvolumes = subvolumes
        self._copies = copies
        self._today = today

    async def create(self, snapshot_id: str, name: str, volume_id: str, group: Group | None = None) -> Snapshot:
        """Take a snapshot, or return the one of that id as it is; one that is being copied is not ready yet."""
        means = self._core.options.snapshots
        mark = Mark(
            SNAPSHOT,
            self._core.options.driver_name,
            self._core.options.cluster,
            object_id=snapshot_id,
            name=name,
            source_volume_id=volume_id,
            created=group.created if group else self._today(),
            group_id=group.group_id if group else "",
            group_name=group.name if group else "",
            ready=group is None,
        )
        try:
            if means is SnapshotMeans.BTRFS_SUBVOLUME:
                return snapshot(await self._subvolumes.take(mark))
            if means is SnapshotMeans.FILE_COPY:
                taken = await self._copies.take(mark)
                return snapshot(taken) if isinstance(taken, Owned) else unready(*taken)
        except Taken as error:
            raise AlreadyExists(error.message, remedy=error.remedy) from None
        raise no_snapshots()

    async def restore(self, spec: VolumeSpec) -> Volume:
        """Make a volume with the content of ``spec.source``; NotFound when that is absent."""
        if spec.source is None:
            raise ValueError(f"volume {spec.volume_id} has no source")
        kind = kind_of(spec.source.kind)
        source = await self._core.find(kind, spec.source.source_id)
        if source is None:
            # The call may be repeated after its reply was lost and the source was deleted.
            made = await self._core.find(Kind.VOLUME, spec.volume_id)
            if made is None:
                raise NotFound(f"{spec.source.kind.value} {spec.source.source_id} does not exist on this array")
            return self._volumes.volume(await make_ready(self._core, made, spec, round_up(spec.size, MIB)))
        try:
            match self._core.options.snapshots:
                case SnapshotMeans.BTRFS_SUBVOLUME:
                    return await self._subvolumes.restore(spec, source)
                case SnapshotMeans.FILE_COPY:
                    return await self._copies.restore(spec, source)
        except Taken as error:
            raise AlreadyExists(error.message, remedy=error.remedy) from None
        raise no_snapshots()

    async def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot, looked at now; NotFound when it is known to be absent."""
        owned = await self._core.find(SNAPSHOT, snapshot_id)
        if owned is not None:
            return snapshot(owned)
        if self._core.options.snapshots is SnapshotMeans.FILE_COPY:
            pending = await self._copies.pending(snapshot_id)
            if pending is not None:
                return unready(*pending)
            # It may have become whole between the two looks.
            owned = await self._core.find(SNAPSHOT, snapshot_id)
            if owned is not None:
                return snapshot(owned)
        raise NotFound(f"snapshot {snapshot_id} does not exist on this array")

    async def list_all(self) -> list[Snapshot]:
        """All snapshots, sorted by id, those that are being copied as well."""
        found = {}
        if self._core.options.snapshots is SnapshotMeans.FILE_COPY:
            for source, copy in copies_of(await self._core.all(Kind.VOLUME)):
                if copy.kind is SNAPSHOT:
                    found[copy.object_id] = unready(source, copy)
        # After the copies: one that became whole meanwhile is among these.
        found |= {owned.object_id: snapshot(owned) for owned in await self._core.all(SNAPSHOT)}
        return [found[snapshot_id] for snapshot_id in sorted(found)]

    async def delete(self, snapshot_id: str, disk_id: str = "") -> None:
        """Remove the snapshot's disk and file, and what a killed call left of it; an absent one is fine. With
        ``disk_id`` the disk with that id only: FailedPrecondition when the snapshot has another one."""
        site = await self._core.pool.writable()
        listed = await self._core.find(SNAPSHOT, snapshot_id) if disk_id else None
        if listed is not None:
            check_same(listed, disk_id)
        if self._core.options.snapshots is SnapshotMeans.FILE_COPY:
            await self._copies.cancel(snapshot_id)
            await self._copies.settle(SNAPSHOT, snapshot_id)
        anchors = self._core.ownership.anchors(site.names, SNAPSHOT, snapshot_id)
        path = site.names.snapshot_path(snapshot_id)
        seen = disk_id or self._core.remembered(SNAPSHOT, snapshot_id)
        if not seen and await clear(self._core, site, SNAPSHOT, snapshot_id, anchors, path):
            return

        def plan(owned: Owned) -> tuple[Step, ...]:
            check_same(owned, disk_id)
            check_idle(owned)
            return (RemoveDisk(), *self._core.removal(site, self._core.file_of(site, owned)))

        what = f"snapshot {snapshot_id}"
        change = await self._core.change(SNAPSHOT, snapshot_id, plan, what=f"{what} could not be removed")
        if change.outcome is not None:
            check_nothing_left(what, change.outcome)
        elif not await clear(self._core, site, SNAPSHOT, snapshot_id, anchors, path):
            raise appeared(what)


def snapshot(owned: Owned) -> Snapshot:
    """What the services see of a snapshot's disk."""
    mark = owned.mark
    if mark.created is None:
        raise FailedPrecondition(f"the mark of snapshot {mark.object_id} does not tell when it was taken")
    return Snapshot(
        snapshot_id=mark.object_id,
        name=mark.name,
        source_volume_id=mark.source_volume_id,
        size=owned.disk.size,
        created=mark.created.astimezone(UTC),
        ready=mark.ready,
        group_id=mark.group_id,
    )


def unready(source: Owned, copy: Copy) -> Snapshot:
    """What the services see of a snapshot that is being copied."""
    return Snapshot(copy.object_id, copy.name, source.object_id, source.disk.size, copy.created, ready=False)


def no_snapshots() -> Unimplemented:
    """The error for what needs snapshots on an array without."""
    return Unimplemented(
        "this array makes no snapshots and no clones",
        remedy="Set snapshots=btrfs-subvolume or snapshots=file-copy in the array's URL.",
    )
