"""Group snapshots: members are snapshots whose marks name the group. Only of btrfs subvolumes, and only of volumes that
nobody can write to: RouterOS snapshots one subvolume at a time, so nothing else makes them of one moment.

A member is not ready until all are there. A group that is half made is taken anew, so that all are of one moment.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from rds_csi.arrays.routeros.commands import SetDisk, Step
from rds_csi.arrays.routeros.copy_records import check_unwritten
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.mark import Kind
from rds_csi.arrays.routeros.options import SnapshotMeans
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.snapshots import Group, Snapshots, no_snapshots, snapshot
from rds_csi.arrays.routeros.volumes import Volumes, clear
from rds_csi.errors import AlreadyExists, InvalidArgument, NotFound, Unimplemented
from rds_csi.model.names import id_for_name
from rds_csi.model.volumes import SnapshotGroup


class Groups:
    """Snapshots of several volumes at one moment."""

    def __init__(self, core: Core, volumes: Volumes, snapshots: Snapshots, *, today: Callable[[], datetime]) -> None:
        self._core = core
        self._volumes = volumes
        self._snapshots = snapshots
        self._today = today

    async def create(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        """Snapshot all volumes, or return the group of that id as it is. FailedPrecondition, naming the volume, while
        one is attached for writing."""
        if self._core.options.snapshots is not SnapshotMeans.BTRFS_SUBVOLUME:
            raise Unimplemented("this array cannot snapshot several volumes at one moment") from no_snapshots()
        if not volume_ids:
            raise InvalidArgument(f"group snapshot {group_id} has no volumes")
        members = await self._members(group_id)
        wanted = {id_for_name(f"{group_id}-{volume_id}"): volume_id for volume_id in volume_ids}
        if not members or not _is_settled(members, wanted):
            members = await self._take(Group(group_id, name, self._today()), wanted, members)
        if any(not member.mark.ready for member in members):
            members = [await self._finish(member) for member in members]
        return _group(group_id, members)

    async def get(self, group_id: str) -> SnapshotGroup:
        """The group; NotFound when it is known to be absent."""
        members = await self._members(group_id)
        if not members:
            raise NotFound(f"group snapshot {group_id} does not exist on this array")
        return _group(group_id, members)

    async def delete(self, group_id: str) -> None:
        """Remove all members, and what a killed deletion left of them; an absent group is fine."""
        for member in await self._members(group_id):
            await self._snapshots.delete(member.object_id)
        await self._clear(group_id)

    async def _clear(self, group_id: str) -> None:
        """Remove subvolumes of members without their disks, which alone would tell that they are of the group: known by
        the names that snapshots of the volumes which are there would have."""
        if self._core.options.snapshots is not SnapshotMeans.BTRFS_SUBVOLUME:
            return
        site = await self._core.pool.writable()
        left = {item.name for item in await self._core.client.list_subvolumes() if item.filesystem == site.filesystem}
        for volume in await self._core.all(Kind.VOLUME):
            snapshot_id = id_for_name(f"{group_id}-{volume.object_id}")
            if site.names.snapshot_subvolume(snapshot_id) in left:
                anchors = self._core.ownership.anchors(site.names, Kind.SNAPSHOT, snapshot_id)
                path = site.names.snapshot_path(snapshot_id)
                await clear(self._core, site, Kind.SNAPSHOT, snapshot_id, anchors, path)

    async def _members(self, group_id: str) -> list[Owned]:
        return [owned for owned in await self._core.all(Kind.SNAPSHOT) if owned.mark.group_id == group_id]

    async def _take(self, group: Group, wanted: dict[str, str], half: Sequence[Owned]) -> list[Owned]:
        """All members, none of them ready; ``half`` are those of a killed call."""
        for volume_id in wanted.values():
            check_unwritten(await self._volumes.need(volume_id))
        for member in half:
            await self._snapshots.delete(member.object_id)
        for snapshot_id, volume_id in wanted.items():
            taken = await self._snapshots.create(snapshot_id, snapshot_id, volume_id, group)
            if taken.group_id != group.group_id:
                raise AlreadyExists(f"snapshot {snapshot_id} exists and does not belong to the group {group.group_id}")
        return await self._members(group.group_id)

    async def _finish(self, member: Owned) -> Owned:
        """Call the member ready."""

        def plan(owned: Owned) -> tuple[Step, ...] | None:
            return None if owned.mark.ready else (SetDisk({"comment": replace(owned.mark, ready=True).encode()}),)

        what = f"snapshot {member.object_id} could not be completed"
        change = await self._core.change(Kind.SNAPSHOT, member.object_id, plan, what=what)
        if change.after is None:
            raise NotFound(f"snapshot {member.object_id} of group {member.mark.group_id} was removed meanwhile")
        return change.after


def _is_settled(members: Sequence[Owned], wanted: dict[str, str]) -> bool:
    """Whether the members are all that were wanted, or a finished group of others, which is the caller's to compare."""
    return {member.object_id for member in members} == set(wanted) or all(member.mark.ready for member in members)


def _group(group_id: str, members: Sequence[Owned]) -> SnapshotGroup:
    snapshots = tuple(snapshot(member) for member in members)
    return SnapshotGroup(
        group_id, members[0].mark.group_name, snapshots, created=min(item.created for item in snapshots)
    )
