"""NodeUnstage: unmount, disconnect, forget; the record goes last, so that a killed call can be repeated."""

from rds_csi.connectors.protocol import Connector
from rds_csi.errors import FailedPrecondition
from rds_csi.filesystem.protocol import Filesystems, MountTable, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.model.records import FormatState, StageRecord
from rds_csi.services.locating import Located, Locator
from rds_csi.tasks import finish


class Unstaging:
    """Unstages volumes, with their record or, when it was lost, by what is mounted at the staging path."""

    def __init__(
        self,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        locator: Locator,
        locks: OperationLocks,
    ) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._locator = locator
        self._locks = locks

    async def unstage(self, volume_id: str, path: str) -> None:
        """NodeUnstageVolume; a volume that is not staged is fine. FailedPrecondition while it is published."""
        with self._locks.hold("NodeUnstageVolume", volume_id):
            record = await self._records.load(volume_id)
            table = await self._filesystems.mount_table()
            if record is None and (not table.at(path) or await self._is_of_another_volume(path)):
                return
            await finish(self._unstage(volume_id, path, record, table))

    async def _unstage(self, volume_id: str, path: str, record: StageRecord | None, table: MountTable) -> None:
        stacked = table.at(path)
        target = record.target if record is not None else await self._locator.target_of_mount(stacked[-1])
        located = await self._locator.of_target(target, record) if target is not None else None
        for mount in stacked:
            await self._locator.check_ours(volume_id, mount, located, record)
        if located is not None:
            await self._check_unpublished(volume_id, path, located)
        if record is not None:
            # Also beside a device that came back: after this record nothing tells whose the dead mounts are.
            used = await self._locator.used_paths(record, table)
            if published := [used_path for used_path in used if used_path != path]:
                raise _still_published(volume_id, published)
        # Also by the target's name: the sweep knows sessions, not volumes.
        with self._locks.hold("NodeUnstageVolume", *([target.identity] if target is not None else [])):
            if stacked:
                await self._filesystems.unmount(path)
            if target is not None:
                await self._connector.disconnect(target)
        # One that comes back after a power cut would have mkfs repeated over what is there by then.
        half_made = record is not None and record.format_state is FormatState.FORMATTING
        await self._records.remove(volume_id, durable=half_made)

    async def _is_of_another_volume(self, path: str) -> bool:
        return any(record.staging_path == path for record in await self._records.all())

    async def _check_unpublished(self, volume_id: str, path: str, located: Located) -> None:
        """Never pull a device from under a pod (lessons L5)."""
        used = [mount.path for mount in located.mounts if mount.path != path]
        used += await self._locator.block_targets_in_use(located.record, located.device.number)
        if used:
            raise _still_published(volume_id, used)


def _still_published(volume_id: str, paths: list[str]) -> FailedPrecondition:
    return FailedPrecondition(
        f"volume {volume_id} is still published at {', '.join(paths[:8])}", remedy="Unpublish it there first."
    )
