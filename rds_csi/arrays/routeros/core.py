"""What all operations on disks of ours share: find one, change it by compare-and-set, remember what was seen."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.commands import (
    Anchors,
    Command,
    Deed,
    Expect,
    Outcome,
    RemoveFile,
    RemoveSubvolume,
    SetDisk,
    Step,
)
from rds_csi.arrays.routeros.lookups import Lookups
from rds_csi.arrays.routeros.mark import DamagedMark, Kind
from rds_csi.arrays.routeros.names import IMAGE_IN_SUBVOLUME, Names
from rds_csi.arrays.routeros.options import RouterosOptions
from rds_csi.arrays.routeros.ownership import Owned, Ownership
from rds_csi.arrays.routeros.pool import Pool, Site
from rds_csi.arrays.routeros.records import Disk
from rds_csi.arrays.routeros.settling import Settling, is_final, refusal
from rds_csi.errors import Aborted, DriverError, FailedPrecondition, Unavailable
from rds_csi.retry import Clock

# Disks whose last sight is remembered, as an expectation of what the next command finds.
REMEMBERED = 4096
# How often a change is decided anew because somebody else changed the disk meanwhile.
ATTEMPTS = 5
# Disks of a listing that are read before other tasks get their turn.
_AT_ONCE = 500

Plan = Callable[[Owned], Sequence[Step] | None]


@dataclass(frozen=True, slots=True)
class Change:
    """What a change came to: the disk afterwards (None: it is gone, or never was), and the outcome of the command that
    did it (None: none was needed, or its reply was lost)."""

    after: Owned | None
    outcome: Outcome | None = None


class Core:
    """The disks of ours on one array."""

    def __init__(
        self,
        options: RouterosOptions,
        client: Client,
        *,
        pool: Pool,
        lookups: Lookups,
        settling: Settling,
        clock: Clock | None = None,
    ) -> None:
        self.options = options
        self.client = client
        self.pool = pool
        self.lookups = lookups
        self.settling = settling
        self.clock = clock or Clock()
        self.ownership = Ownership(options.driver_name, options.cluster)
        self._seen: OrderedDict[tuple[Kind, str], tuple[float, Owned]] = OrderedDict()

    async def anchors(self, kind: Kind, object_id: str) -> Anchors:
        """What finds the object."""
        return self.ownership.anchors((await self.pool.site()).names, kind, object_id)

    async def find(self, kind: Kind, object_id: str) -> Owned | None:
        """The object, looked at now; None when it is known to be absent."""
        site = await self.pool.site()
        disks = await self.lookups.find(self.ownership.anchors(site.names, kind, object_id))
        return self.pick(site, kind, object_id, disks)

    async def all(self, kind: Kind) -> list[Owned]:
        """Every object of the kind, sorted by id. Disks whose mark is damaged are not among them (see doctor)."""
        await self.pool.site()
        found: dict[str, Owned] = {}
        for index, disk in enumerate(await self.lookups.all()):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            owned = self.read(disk)
            if owned is not None and owned.mark.kind is kind:
                found.setdefault(owned.object_id, owned)
        return [found[object_id] for object_id in sorted(found)]

    def read(self, disk: Disk) -> Owned | None:
        """The disk with its mark; None when it is not provably ours."""
        try:
            return self.ownership.read(disk)
        except DamagedMark:
            return None

    def pick(self, site: Site, kind: Kind, object_id: str, disks: Iterable[Disk]) -> Owned | None:
        """The object among what its anchors found, remembered (see ``Ownership.pick``)."""
        self.forget(kind, object_id)
        owned = self.ownership.pick(site.names, kind, object_id, disks)
        if owned is not None:
            self._seen[kind, object_id] = (self.clock.now(), owned)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return owned

    def remembered(self, kind: Kind, object_id: str, *, seconds: float = float("inf")) -> Owned | None:
        """How the object was seen last, not longer than ``seconds`` ago. Never the truth, only an expectation."""
        moment, owned = self._seen.get((kind, object_id), (0.0, None))
        return owned if owned is not None and self.clock.now() - moment <= seconds else None

    def forget(self, kind: Kind, object_id: str) -> None:
        """What was seen does not count any more."""
        self._seen.pop((kind, object_id), None)

    async def change(
        self,
        kind: Kind,
        object_id: str,
        plan: Plan,
        *,
        what: str,
        seconds: float = float("inf"),
        needed: int = 0,
    ) -> Change:
        """Do the steps that ``plan`` gives for the object as it is: None when there is nothing to be done.

        The object as it was seen last (at most ``seconds`` ago) is what is expected; when it turns out to be another,
        or the plan refuses it, it is looked at and planned anew. ``what`` failed, ``needed`` bytes, is for errors.
        """
        site = await self.pool.site()
        owned = self.remembered(kind, object_id, seconds=seconds)
        fresh = owned is None
        if owned is None:
            owned = await self.find(kind, object_id)
        for _ in range(ATTEMPTS):
            if owned is None:
                return Change(None)
            steps = _planned(plan, owned, fresh=fresh)
            if steps is not None:
                outcome = await self._execute_on(site, owned, steps)
                gone = all(disk.id != owned.disk.id for disk in outcome.disks)
                # The file of an adopted disk is found by nobody when its disk is gone: that must be told.
                if outcome.error and (owned.mark.path or not gone):
                    raise await self.refused(outcome.error, what, needed)
                after = self.pick(site, kind, object_id, outcome.disks)
                if outcome.error:
                    # Somebody else has removed it meanwhile, or it was removed and its file was not.
                    owned, fresh = after, True
                    continue
                if outcome.done == 0:
                    return Change(after, outcome)
                _check_alone(object_id, outcome)
                owned = after
            elif fresh:
                return Change(owned)
            else:
                owned = await self.find(kind, object_id)
            fresh = True
        raise Aborted(f"{what}: somebody else keeps changing the disk", remedy="Run one controller only.")

    async def _execute_on(self, site: Site, owned: Owned, steps: Sequence[Step]) -> Outcome:
        anchors = self.ownership.anchors(site.names, owned.mark.kind, owned.object_id)
        if not anchors.match(owned.disk):
            anchors = replace(anchors, slots=(*anchors.slots, owned.disk.slot))
        expect = Expect(1, disk_id=owned.disk.id, comment=owned.disk.comment, smaller=_grown_to(steps))
        return await self.settling.execute(Command(anchors, (Deed(expect, tuple(steps)),)))

    async def refused(self, words: str, what: str, needed: int = 0) -> DriverError:
        """The error for a refused step; the pool is looked at when ``needed`` bytes may be what was missing."""
        missing = bool(needed) and not is_final(words) and not await self.pool.has_room(needed)
        return refusal(words, what, missing=missing)

    def removal(self, site: Site, path: str) -> tuple[Step, ...]:
        """The steps that remove the file at ``path``, in a subvolume of its own with that. They are refused while the
        pool is away, or the file would be taken for removed."""
        subvolume = subvolume_of(site.names, path)
        if subvolume:
            return (RemoveSubvolume(site.filesystem, subvolume, mounted=True),)
        directory = path.rpartition("/")[0]
        # Whether /file lists the pool's own mount point is not certain of every version.
        return (RemoveFile(path, within=directory if "/" in directory else ""),)

    def file_of(self, site: Site, owned: Owned) -> str:
        """The file of a disk of ours; FailedPrecondition when it is another one than was made or adopted."""
        path = owned.disk.file_path
        if path and (path == owned.mark.path or site.names.is_ours(path, owned.object_id)):
            return path
        raise FailedPrecondition(
            f"disk {owned.disk.slot!r} of {owned.object_id} has the file {path!r}, which this driver did not make",
            remedy="Set its file-path back, or remove it by hand.",
        )


def subvolume_of(names: Names, path: str) -> str:
    """The name within the filesystem of the subvolume that ``path`` is alone in; "" when it lies in none."""
    suffix = f"/{IMAGE_IN_SUBVOLUME}"
    if names.object_in(path) is None or not path.endswith(suffix):
        return ""
    return path.removeprefix(f"{names.pool_directory}/").removesuffix(suffix)


def check_nothing_left(what: str, outcome: Outcome) -> None:
    """Unavailable, naming what is left, when disks or files are."""
    left = [f"disk {disk.slot}" for disk in outcome.disks] + [f"file {file.name}" for file in outcome.files]
    if left:
        raise Unavailable(
            f"{what} is not removed whole: {', '.join(left)} left", remedy="The call is repeated by itself."
        )


def _grown_to(steps: Sequence[Step]) -> int:
    """The smallest size in bytes that the steps give the disk's file, which must never be made smaller; 0 for none."""
    sizes = (step.properties.get("file-size", "") for step in steps if isinstance(step, SetDisk))
    return min((int(size) for size in sizes if size), default=0)


def _planned(plan: Plan, owned: Owned, *, fresh: bool) -> Sequence[Step] | None:
    """The plan for the object; None when it refuses what may not be so any more."""
    try:
        return plan(owned)
    except DriverError:
        if fresh:
            raise
        return None


def _check_alone(object_id: str, outcome: Outcome) -> None:
    if len(outcome.disks) > 1:
        slots = " and ".join(repr(disk.slot) for disk in outcome.disks)
        raise FailedPrecondition(
            f"the disks {slots} are both in the place of {object_id}, so nothing is done to either",
            remedy="Rename the one that is not the volume's.",
        )
