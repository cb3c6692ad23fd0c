"""Snapshots and clones by btrfs subvolumes: each volume is alone in one, so a snapshot of that is one of the volume.

A snapshot is a subvolume and a ``type=file`` disk over the file in it; the disk is never exported and carries the mark.
It is writable, because RouterOS must open it as a disk; nobody does. A subvolume without a disk is what a killed call
left, or a killed deletion; its name says that it is ours, so it is removed before the next one of that name.
"""

from dataclasses import replace

from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Command,
    Deed,
    Expect,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.core import Core, subvolume_of
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.pool import Site
from rds_csi.arrays.routeros.volumes import Adding, Volumes, clear, file_disk, not_found
from rds_csi.errors import FailedPrecondition, Internal, Unavailable
from rds_csi.model.sizes import MIB, round_up
from rds_csi.model.volumes import Volume, VolumeSpec


class Subvolumes:
    """Snapshots and clones in a btrfs pool."""

    def __init__(self, core: Core, volumes: Volumes) -> None:
        self._core = core
        self._volumes = volumes

    async def take(self, mark: Mark) -> Owned:
        """Take the snapshot that ``mark`` tells of, or return the one of that id as it is."""
        site = await self._core.pool.writable()
        volume_id = mark.source_volume_id
        source = self._core.remembered(Kind.VOLUME, volume_id)
        if source is None or not source.mark.ready:
            source = await self._volumes.need(volume_id)
        snapshot_id, fs = mark.object_id, site.filesystem
        subvolume = site.names.snapshot_subvolume(snapshot_id)
        disk = file_disk(site.names.snapshot_slot(snapshot_id), site.names.snapshot_path(snapshot_id), None)
        steps = (
            AddSubvolume(fs, subvolume, parent=self._subvolume(site, source)),
            AddDisk({**disk, "nvme-tcp-export": "no", "comment": mark.encode()}),
        )
        anchors = self._core.ownership.anchors(site.names, Kind.SNAPSHOT, snapshot_id)
        command = Command(anchors, (Deed(Expect(disks=0), steps),))
        outcome = await self._core.settling.execute(command)
        if outcome.error:
            # NotFound, when that is why.
            await self._volumes.need(volume_id)
            # The name may be taken by what a killed call left.
            if await clear(self._core, site, Kind.SNAPSHOT, snapshot_id, anchors, anchors.paths[0]):
                outcome = await self._core.settling.execute(command)
        if outcome.error:
            raise await self._core.refused(outcome.error, f"snapshot {snapshot_id} could not be taken")
        taken = self._core.pick(site, Kind.SNAPSHOT, snapshot_id, outcome.disks)
        if taken is None:
            raise Unavailable(f"snapshot {snapshot_id} is not there although it was taken")
        return taken

    async def restore(self, spec: VolumeSpec, source: Owned) -> Volume:
        """Make a volume whose first content is the source's, or return the one of that id as it is."""
        site = await self._core.pool.writable()
        size = round_up(spec.size, MIB)
        fs, subvolume = site.filesystem, site.names.volume_subvolume(spec.volume_id)
        # Only one that must grow is not ready at once.
        mark = self._volumes.mark(spec, ready=size <= source.disk.size)
        steps: list[Step] = [
            AddSubvolume(fs, subvolume, parent=self._subvolume(site, source)),
            self._volumes.new_disk(site, mark, None),
        ]
        if not mark.ready:
            steps.append(SetDisk({"file-size": str(size)}))
        free = Expect(disks=0)
        again = Deed(free, (RemoveSubvolume(fs, subvolume), *steps))
        adding = Adding(Deed(free, tuple(steps)), again, undo=free)
        owned, made = await self._volumes.add(site, spec.volume_id, adding, size)
        if made and mark.ready:
            owned = await self._volumes.check_size(site, owned, size)
        return self._volumes.volume(await make_ready(self._core, owned, spec, size))

    def _subvolume(self, site: Site, source: Owned) -> str:
        name = subvolume_of(site.names, source.disk.file_path)
        if not name:
            raise FailedPrecondition(
                f"disk {source.disk.slot!r} is not in a subvolume of its own: it was made before "
                "snapshots=btrfs-subvolume was set",
                remedy="Copy its data to a new volume, which will be.",
            )
        return name


async def make_ready(core: Core, owned: Owned, spec: VolumeSpec, size: int) -> Owned:
    """Grow a volume that was made from a smaller source, and only then call it ready; one that is stays as it is."""
    if owned.mark.ready:
        return owned
    volume_id = spec.volume_id

    def plan(seen: Owned) -> tuple[Step, ...] | None:
        if seen.mark.ready:
            return None
        if seen.disk.size < size:
            return (SetDisk({"file-size": str(size)}),)
        return (SetDisk({"comment": replace(seen.mark, ready=True).encode()}),)

    for _ in range(2):
        what = f"volume {volume_id} could not be grown to {size} bytes"
        change = await core.change(Kind.VOLUME, volume_id, plan, what=what, needed=size)
        if change.after is None:
            raise not_found(volume_id)
        if change.after.mark.ready:
            return change.after
    raise Internal(f"volume {volume_id}, made from its source, did not grow to {size} bytes")
