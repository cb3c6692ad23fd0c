"""Which volumes are staged on this node now: what the keeper of sessions and the sweep must leave in peace."""

from collections.abc import Sequence

from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.model.records import StageRecord


class StagedVolumes:
    """The staged volumes, by their records and the mount table. Reads only, and never a mount itself."""

    def __init__(self, records: StageRecords, filesystems: Filesystems, boot_id: str) -> None:
        """``boot_id`` is that of the running kernel: what was staged under another is no longer."""
        self._records = records
        self._filesystems = filesystems
        self._boot_id = boot_id

    async def __call__(self) -> Sequence[StageRecord]:
        """The records of volumes that are block volumes, or have a mount at their staging path. A dead mount counts:
        its session is to come back all the same, so that the volume can be unstaged and staged anew."""
        records = [record for record in await self._records.all() if record.boot_id == self._boot_id]
        if not records:
            return ()
        table = await self._filesystems.mount_table()
        return tuple(record for record in records if record.block or table.at(record.staging_path))
