"""Growing a volume: set the file's size, read the disk's back. Whether hosts see it at once is for the node to find."""

from rds_csi.arrays.routeros.commands import SetDisk, Step
from rds_csi.arrays.routeros.copy_records import check_idle
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.mark import Kind
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.volumes import not_found, wait_for_size
from rds_csi.errors import DriverError, FailedPrecondition, ResourceExhausted
from rds_csi.model.sizes import MIB, round_up

# Seconds. A size that was seen longer ago is looked at again: a file must never be made smaller than it is.
RECENT = 5.0


async def expand(core: Core, volume_id: str, size: int) -> Owned:
    """Grow the volume to at least ``size`` bytes; one that is larger stays as it is.

    NotFound; ResourceExhausted when the pool is full; FailedPrecondition when RouterOS does not grow it.
    """
    await core.pool.writable()
    wanted = round_up(size, MIB)

    def plan(owned: Owned) -> tuple[Step, ...] | None:
        if owned.disk.size >= wanted:
            return None
        check_idle(owned)
        return (SetDisk({"file-size": str(wanted)}),)

    what = f"volume {volume_id} could not be grown to {wanted} bytes"
    before = core.remembered(Kind.VOLUME, volume_id, seconds=RECENT) or await core.find(Kind.VOLUME, volume_id)
    if before is None:
        raise not_found(volume_id)
    missing = max(wanted - before.disk.size, 1)
    change = await core.change(Kind.VOLUME, volume_id, plan, what=what, seconds=RECENT, needed=missing)
    after = change.after
    if after is None:
        raise not_found(volume_id)
    after = await wait_for_size(core, after, wanted)
    if after.disk.size < wanted:
        raise await _not_grown(core, after, wanted)
    return after


async def _not_grown(core: Core, owned: Owned, wanted: int) -> DriverError:
    told = f"volume {owned.object_id} still has {owned.disk.size} bytes after its file was set to {wanted}"
    if not await core.pool.has_room(wanted - owned.disk.size):
        return ResourceExhausted(told, remedy="Make room in the pool: delete volumes or snapshots, or add disks.")
    return FailedPrecondition(
        f"{told}: RouterOS did not grow it",
        remedy="Unpublish the volume from all nodes and expand it again; else copy its data to a larger one.",
    )
