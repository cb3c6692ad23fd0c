"""Where a volume is on this node: its record, its device, its mounts and block nodes, as the kernel shows them."""

from dataclasses import dataclass

from rds_csi.connectors.protocol import Connector
from rds_csi.errors import FailedPrecondition, NotFound, Unavailable
from rds_csi.filesystem.protocol import Filesystems, Mount, MountTable, StageRecords
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.records import StageRecord
from rds_csi.model.targets import Target
from rds_csi.services import lost


@dataclass(frozen=True, slots=True)
class Located:
    """A connected volume. ``mounts`` are all mounts of its filesystem, the staging path's and pods' alike."""

    target: Target
    device: Device
    record: StageRecord | None
    mounts: tuple[Mount, ...]

    def mounts_at(self, path: str) -> tuple[Mount, ...]:
        """Its mounts stacked exactly at ``path``."""
        return tuple(mount for mount in self.mounts if mount.path == path)


class Locator:
    """Finds volumes by looking: a stage record only says where to look first."""

    def __init__(self, connector: Connector, filesystems: Filesystems, records: StageRecords, boot_id: str) -> None:
        """``boot_id`` is that of the running kernel: device numbers mean nothing under another."""
        self._boot_id = boot_id
        self._connector = connector
        self._filesystems = filesystems
        self._records = records

    async def of_target(self, target: Target, record: StageRecord | None) -> Located | None:
        """The volume at ``target``; None when it is not connected."""
        device = await self._connector.find(target)
        if device is None:
            return None
        return Located(target, device, record, tuple(await self._filesystems.mounts_of(device)))

    async def at_path(self, volume_id: str, path: str) -> Located:
        """The volume whose mount or block node is at ``path``.

        NotFound when it is not there; Unavailable when the volume was staged and its device has gone away.
        """
        record = await self._records.load(volume_id)
        target = record.target if record is not None else await self._target_at(path)
        if target is None:
            raise NotFound(f"volume {volume_id} is not at {path}: nothing of this driver is there")
        located = await self.of_target(target, record)
        if located is None:
            raise Unavailable(f"volume {volume_id} is staged, but its device has gone away")
        if located.mounts_at(path):
            return located
        await self.check_not_dead(record, path, located)
        if await self._filesystems.block_node_at(path) != located.device.number:
            raise NotFound(f"volume {volume_id} is not at {path}")
        return located

    async def target_of_mount(self, mount: Mount) -> Target | None:
        """The target behind a mount; None when its device is gone, or not of this driver."""
        target = await self._connector.target_of(mount.number)
        if target is not None:
            return target
        # btrfs mounts carry a made-up number: there the source tells the device.
        number = await self._node_at(mount.source)
        return None if number is None else await self._connector.target_of(number)

    async def check_ours(
        self, volume_id: str, mount: Mount, located: Located | None, record: StageRecord | None
    ) -> None:
        """FailedPrecondition unless ``mount`` may be undone for the volume: what a request names by its path
        must never take away a mount of the host, or of another volume.
        """
        if located is not None and mount in located.mounts:
            return
        if record is not None and self.was_staged_as(mount, record):
            return
        if record is None and await self._is_of_no_other(volume_id, await self.target_of_mount(mount)):
            return
        raise FailedPrecondition(
            f"{mount.path} has {mount.fs_type} of {mount.source} mounted, which is not this volume",
            remedy="Look what is mounted there (findmnt), and unmount it by hand if it is not needed.",
        )

    async def used_paths(self, record: StageRecord, table: MountTable) -> list[str]:
        """Every path at which something of the volume is, dead or alive: mounts and block nodes of the device that
        it was staged as, the staging path included. A number that another volume has got since tells nothing."""
        paths = []
        for mount in table.mounts:
            if not self.was_staged_as(mount, record):
                continue
            target = None if mount.path == record.staging_path else await self.target_of_mount(mount)
            if target is None or target.identity == record.target.identity:
                paths.append(mount.path)
        return paths + [path for path in record.block_targets if await self._filesystems.block_node_at(path)]

    async def may_be_of(self, volume_id: str, number: DeviceNumber) -> bool:
        """Whether the block device is one of this driver's, and of no other volume that is staged here."""
        return await self._is_of_no_other(volume_id, await self._connector.target_of(number))

    async def _is_of_no_other(self, volume_id: str, target: Target | None) -> bool:
        others = {record.target.identity for record in await self._records.all() if record.volume_id != volume_id}
        return target is not None and target.identity not in others

    async def block_targets_in_use(self, record: StageRecord | None, number: DeviceNumber) -> list[str]:
        """The recorded publish paths that have a block node of the device now."""
        if record is None:
            return []
        return [path for path in record.block_targets if await self._filesystems.block_node_at(path) == number]

    async def _target_at(self, path: str) -> Target | None:
        mounts = (await self._filesystems.mount_table()).at(path)
        if mounts:
            return await self.target_of_mount(mounts[-1])
        number = await self._filesystems.block_node_at(path)
        return None if number is None else await self._connector.target_of(number)

    def was_staged_as(self, mount: Mount, record: StageRecord) -> bool:
        """Whether a mount is of the device that the volume was staged as: the dead mounts of a device that has
        left the kernel (lessons 22b). The kernel gives the number to nobody else while such a mount lasts."""
        if record.boot_id != self._boot_id or not record.device_number:
            return False
        return str(mount.number) == record.device_number or (
            mount.fs_type == "btrfs" and mount.source == record.device_path
        )

    async def check_not_dead(self, record: StageRecord | None, path: str, located: Located | None) -> None:
        """FailedPrecondition when the mount at ``path`` is of a device of the volume that the kernel has given up. The
        mount itself is not looked at: that may hang."""
        if record is None:
            return
        dead = self.dead_at(await self._filesystems.mount_table(), record, path, located)
        if dead:
            raise lost.error(record.volume_id, dead[-1], located.device if located is not None else None)

    def dead_at(self, table: MountTable, record: StageRecord, path: str, located: Located | None) -> tuple[Mount, ...]:
        """The mounts at ``path`` that are of the volume, but not of the device that it has now."""
        alive = located.mounts if located is not None else ()
        return tuple(m for m in table.at(path) if m not in alive and self.was_staged_as(m, record))

    async def _node_at(self, source: str) -> DeviceNumber | None:
        return await self._filesystems.block_node_at(source) if source.startswith("/") else None
