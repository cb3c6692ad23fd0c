"""What is wrong with a volume, seen from the array: its pool, its disk, its file and its mark."""

from collections.abc import Iterator, Sequence

from rds_csi.arrays.routeros import fencing
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect, Outcome
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.mark import DamagedMark, Kind
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.pool import CLEAN, Site
from rds_csi.arrays.routeros.records import Disk
from rds_csi.arrays.routeros.volumes import not_found
from rds_csi.errors import DriverError, Unavailable
from rds_csi.model.volumes import HealthProblem, HealthStatus

# One look for any number of disks that the anchors may find: a volume's, its pool's, and what is in the way.
_MOST = 4


async def problems(core: Core, volume_id: str) -> Sequence[HealthProblem]:
    """Everything that is wrong, by one look; NotFound for an absent volume, Unavailable when it cannot be known."""
    site = await core.pool.site()
    own = core.ownership.anchors(site.names, Kind.VOLUME, volume_id)
    anchors = Anchors((*own.slots, core.options.pool), own.nqns, own.paths)
    # No steps: the deeds only say that the files are to be looked at, too.
    look = tuple(Deed(Expect(disks=count, no_file=True)) for count in range(1, _MOST + 1))
    outcome = await core.settling.execute(Command(anchors, look))
    if outcome.error:
        raise Unavailable(f"the health of volume {volume_id} is not known: RouterOS says {outcome.error!r}")
    pool = next((disk for disk in outcome.disks if disk.slot == core.options.pool), None)
    try:
        owned = core.pick(site, Kind.VOLUME, volume_id, [disk for disk in outcome.disks if disk is not pool])
    except DamagedMark as error:
        return [HealthProblem(HealthStatus.INACCESSIBLE, "MarkDamaged", str(error))]
    except DriverError as error:
        return [HealthProblem(HealthStatus.INACCESSIBLE, "NotOurs", str(error))]
    if owned is None:
        raise not_found(volume_id)
    return [*_of_pool(pool, core.options.pool), *_of_disk(core, site, owned), *_of_file(outcome, owned, pool)]


def _of_pool(pool: Disk | None, name: str) -> Iterator[HealthProblem]:
    if pool is None:
        yield HealthProblem(HealthStatus.INACCESSIBLE, "PoolMissing", f"the array has no pool {name}")
    elif not pool.mounted:
        yield HealthProblem(HealthStatus.INACCESSIBLE, "PoolNotMounted", f"the pool {name} is not mounted")
    elif pool.state not in ("", CLEAN):
        yield HealthProblem(HealthStatus.DEGRADED, "PoolDegraded", f"the pool {name} is in the state {pool.state!r}")


def _of_disk(core: Core, site: Site, owned: Owned) -> Iterator[HealthProblem]:
    disk, mark = owned.disk, owned.mark
    if fencing.is_exported(core.options.fencing, mark.attachments) and not disk.exported:
        yield HealthProblem(
            HealthStatus.INACCESSIBLE, "NotExported", f"disk {disk.slot} is not exported (nvme-tcp-export)"
        )
    if disk.disabled:
        yield HealthProblem(HealthStatus.INACCESSIBLE, "Disabled", f"disk {disk.slot} is disabled")
    known = (site.names.slot(owned.object_id), owned.object_id)
    if disk.slot not in known:
        yield HealthProblem(
            HealthStatus.DEGRADED, "Renamed", f"the disk's slot is {disk.slot}; it was made as {known[0]}"
        )


def _of_file(outcome: Outcome, owned: Owned, pool: Disk | None) -> Iterator[HealthProblem]:
    """Only where the file that was looked at is the disk's, and in a pool that is there."""
    path = owned.disk.file_path
    asked = outcome.files_known and pool is not None and pool.mounted and not owned.mark.path
    if asked and path not in {file.name for file in outcome.files}:
        yield HealthProblem(HealthStatus.DATA_LOSS, "FileMissing", f"the file {path} of disk {owned.disk.slot} is gone")
