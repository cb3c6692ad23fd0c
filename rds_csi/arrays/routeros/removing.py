"""Removing what a listing has shown, for the orphan report: that very disk, or that very file, and nothing else."""

from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.names import IMAGE_IN_SUBVOLUME
from rds_csi.arrays.routeros.objects import ArrayObject
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.errors import FailedPrecondition, Unavailable


def check_same(owned: Owned, disk_id: str) -> None:
    """FailedPrecondition when the disk is not the one with that id; "" is any."""
    if disk_id and owned.disk.id != disk_id:
        raise FailedPrecondition(
            f"disk {owned.disk.slot!r} of {owned.object_id} was made anew since it was listed",
            remedy="Look again: rds-csi orphans.",
        )


async def remove_leftover(core: Core, item: ArrayObject) -> None:
    """Remove the file or subvolume at the leftover's path, whatever the layout that the URL names now, when it was made
    for the leftover's id and no disk lies over it. FailedPrecondition when not."""
    site = await core.pool.writable()
    nested = f"{item.path}/{IMAGE_IN_SUBVOLUME}"
    path = next((path for path in (item.path, nested) if site.names.is_ours(path, item.object_id)), "")
    if not path:
        raise FailedPrecondition(f"nothing proves that {item.path} was made for {item.object_id}")
    command = Command(Anchors(paths=(path,)), (Deed(Expect(disks=0), core.removal(site, path)),))
    outcome = await core.settling.execute(command)
    if outcome.error:
        raise await core.refused(outcome.error, f"{item.path} could not be removed")
    if outcome.disks:
        raise FailedPrecondition(f"disk {outcome.disks[0].slot!r} lies over {path} by now")
    if outcome.files:
        raise Unavailable(f"{outcome.files[0].name} is not removed")
