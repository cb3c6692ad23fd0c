"""The pool, and the device it is in: looked at on first contact and every ten minutes; what it can still give."""

import asyncio
import contextvars
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rds_csi import deadline
from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import Anchors
from rds_csi.arrays.routeros.lookups import Lookups
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.options import RouterosOptions, SnapshotMeans
from rds_csi.arrays.routeros.records import DeviceFacts, Disk, OldDevice
from rds_csi.errors import DeadlineExceeded, DriverError, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import Capacity, Finding
from rds_csi.retry import Clock

_log = logging.getLogger(__name__)

# Seconds between two looks at version, packages and pool.
FACTS_SECONDS = 600.0
# The same, while the array is away: the calls themselves find out when it is back.
AGAIN_SECONDS = 30.0
# The first RouterOS that lets a disk have an NQN of its own (nvme-tcp-server-nqn); facts, 1.2.
OLDEST = (7, 21)
# The first one with /file/copy.
OLDEST_COPY = (7, 23)
PACKAGE = "rose-storage"
CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class Site:
    """What first contact has shown. ``trouble``: why nothing may be written into the pool now; None when it may."""

    names: Names
    facts: DeviceFacts
    pool: Disk | None
    trouble: FailedPrecondition | Unavailable | None = None

    @property
    def filesystem(self) -> str:
        """The label of the pool's filesystem, by which btrfs commands name it."""
        return self.pool.fs_label if self.pool else ""


class Pool:
    """Knows the device's facts and the pool; every look is shared by all who wait for it."""

    def __init__(self, client: Client, options: RouterosOptions, lookups: Lookups, clock: Clock | None = None) -> None:
        self._client = client
        self._options = options
        self._lookups = lookups
        self._clock = clock or Clock()
        self._site: Site | None = None
        self._next_look = 0.0
        self._looking: asyncio.Task[Site] | None = None

    @property
    def known(self) -> Site | None:
        """What the last look has shown; None before the first contact."""
        return self._site

    async def site(self) -> Site:
        """The site, as seen within the last ten minutes.

        FailedPrecondition when the device is too old or without ROSE storage; Unavailable when it is away and was
        never seen.
        """
        if self._site is not None and self._clock.now() < self._next_look:
            return self._site
        try:
            return await self.look()
        except Unavailable as error:
            if self._site is None:
                raise
            _log.info("the array could not be looked at again: %s", error)
            self._next_look = self._clock.now() + AGAIN_SECONDS
            return self._site

    async def writable(self) -> Site:
        """The site, when files can be made and removed in its pool; else the reason is raised."""
        site = await self.site()
        if site.trouble is not None:
            # Perhaps somebody has mended it meanwhile.
            site = await self.look()
        if site.trouble is not None:
            raise site.trouble
        return site

    async def look(self) -> Site:
        """Look now."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look(), context=contextvars.Context())
            # Who asked may be gone; then nobody is to be told of a failure.
            self._looking.add_done_callback(lambda task: task.cancelled() or task.exception())
        looking = self._looking
        # Unlike wait_for, this leaves the look alone when its caller goes away.
        done, _ = await asyncio.wait({looking}, timeout=deadline.remaining())
        if not done:
            raise DeadlineExceeded("the array was not looked at before the caller's time was over")
        if looking.cancelled():
            raise Unavailable("the array is being closed")
        return looking.result()

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def capacity(self, pool: str) -> Capacity:
        """What the pool can still give; files are allocated whole (facts, 1.4)."""
        self.check_name(pool)
        await self.site()
        disk = await self._find()
        if disk is None or not disk.mounted or disk.free is None:
            raise Unavailable(f"the pool {self._options.pool!r} is not there, so its room is not known")
        whole = disk.free // MIB * MIB
        return Capacity(disk.free, maximum_volume_size=whole, minimum_volume_size=MIB)

    async def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes are free; True when it is not known."""
        try:
            disk = await self._find()
        except DriverError:
            return True
        return disk is None or disk.free is None or disk.free >= size

    def check_name(self, pool: str) -> None:
        """InvalidArgument for a pool that this array does not have; "" is any."""
        if pool not in ("", self._options.pool):
            raise InvalidArgument(f"this array has no pool {pool[:64]!r}, but {self._options.pool!r}")

    async def findings(self) -> Sequence[Finding]:
        """What doctor says. Never raises."""
        name = f"array {self._options.transport.host}"
        try:
            site = await self.look()
        except DriverError as error:
            return [Finding(name, False, error.message, error.remedy)]
        return [
            Finding(name, True, f"RouterOS {site.facts.version} on {site.facts.board}, with {PACKAGE}"),
            *_pool_findings(site, self._options),
        ]

    async def _find(self) -> Disk | None:
        found = await self._lookups.find(Anchors(slots=(self._options.pool,)))
        return found[0] if found else None

    async def _look(self) -> Site:
        try:
            facts = await self._client.facts()
            self._check_device(facts)
            pool = await self._find()
            self._site = self._site_of(facts, pool)
            self._next_look = self._clock.now() + FACTS_SECONDS
            return self._site
        finally:
            self._looking = None

    def _check_device(self, facts: DeviceFacts) -> None:
        if not facts.version.is_at_least(*OLDEST):
            raise OldDevice(
                f"RouterOS {facts.version} is too old: {OLDEST[0]}.{OLDEST[1]} is the first that exports disks under "
                "NQNs of their own",
                remedy="Upgrade RouterOS on the array.",
            )
        if facts.packages and PACKAGE not in facts.packages:
            raise FailedPrecondition(
                f"the array has no package {PACKAGE}, or it is disabled",
                remedy=f"Install and enable {PACKAGE}, then apply the changes and reboot the array.",
            )
        if self._options.snapshots is SnapshotMeans.FILE_COPY and not facts.version.is_at_least(*OLDEST_COPY):
            raise OldDevice(
                f"RouterOS {facts.version} cannot copy files: {OLDEST_COPY[0]}.{OLDEST_COPY[1]} is needed",
                remedy="Upgrade RouterOS, or set snapshots=none in the array's URL.",
            )

    def _site_of(self, facts: DeviceFacts, pool: Disk | None) -> Site:
        options = self._options
        # An unmounted pool tells no mount point: RouterOS's template is the slot, unless somebody changed it.
        directory = (pool.mount_point.strip("/") if pool else "") or (
            self._site.names.pool_directory if self._site else options.pool
        )
        names = Names(
            driver=options.driver_name,
            cluster=options.cluster,
            nqn_prefix=options.nqn_prefix,
            pool_directory=directory,
            base=options.base,
            subvolumes=options.snapshots is SnapshotMeans.BTRFS_SUBVOLUME,
        )
        return Site(names, facts, pool, trouble=_trouble(pool, options))


def _trouble(pool: Disk | None, options: RouterosOptions) -> FailedPrecondition | Unavailable | None:
    if pool is None:
        return FailedPrecondition(
            f"the array has no disk with the slot {options.pool!r}",
            remedy="Name the pool's slot in the array's URL (pool=…), as /disk print shows it.",
        )
    if not pool.mounted:
        return Unavailable(
            f"the pool {options.pool!r} is not mounted", remedy="Mount it on the array: look at /disk print there."
        )
    if options.snapshots is SnapshotMeans.BTRFS_SUBVOLUME and (pool.fs != "btrfs" or not pool.fs_label):
        return FailedPrecondition(
            f"the pool {options.pool!r} has the filesystem {pool.fs or 'unknown'!r} and the label {pool.fs_label!r}: "
            "snapshots=btrfs-subvolume needs a labelled btrfs",
            remedy="Set snapshots=none or file-copy in the array's URL, or use a btrfs pool.",
        )
    return None


def _pool_findings(site: Site, options: RouterosOptions) -> Iterator[Finding]:
    subject = f"pool {options.pool}"
    if site.trouble is not None:
        yield Finding(subject, False, site.trouble.message, site.trouble.remedy)
    elif site.pool is not None and site.pool.state not in ("", CLEAN):
        yield Finding(
            subject, False, f"its state is {site.pool.state!r}", "Replace the failed disk, or let it rebuild."
        )
    elif site.pool is not None:
        yield Finding(subject, True, f"mounted, {site.pool.free} bytes free")
