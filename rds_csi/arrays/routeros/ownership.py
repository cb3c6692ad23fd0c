"""Whose a disk is: the mark in its comment read against the driver and cluster that we are. Pure but for a cache."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rds_csi.arrays.protocol import NotOurs
from rds_csi.arrays.routeros import taking_over
from rds_csi.arrays.routeros.commands import Anchors
from rds_csi.arrays.routeros.mark import DamagedMark, Kind, Mark, beginning, decode
from rds_csi.arrays.routeros.names import Names
from rds_csi.arrays.routeros.records import Disk
from rds_csi.errors import DriverError, FailedPrecondition

# Marks. Listings show the same comments again and again; 20,000 take some 20 MB at most.
_KEPT = 20_000

_decode = lru_cache(_KEPT)(decode)


class Taken(NotOurs):
    """What is in an object's place belongs to another driver or cluster, or is another object of ours."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A disk that is provably ours, and what its mark says."""

    disk: Disk
    mark: Mark

    @property
    def object_id(self) -> str:
        """The id of the volume or snapshot."""
        return self.mark.object_id


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who we are."""

    driver: str
    cluster: str

    @property
    def takes_over(self) -> bool:
        """Whether volumes of the Go driver are ours."""
        return self.driver == taking_over.GO_DRIVER

    def begins(self, kind: Kind, object_id: str) -> str:
        """What our mark of that object begins with."""
        return beginning(self.driver, self.cluster, kind, object_id)

    def anchors(self, names: Names, kind: Kind, object_id: str) -> Anchors:
        """What finds the disk of an object, and whatever is in its way. A volume may be called by its very id: one that
        was adopted, or made by the Go driver."""
        if kind is Kind.SNAPSHOT:
            return Anchors(slots=(names.snapshot_slot(object_id),), paths=(names.snapshot_path(object_id),))
        nqns = [names.nqn(object_id)]
        if self.takes_over and taking_over.is_go_id(object_id):
            nqns.append(taking_over.go_nqn(object_id))
        return Anchors(
            slots=tuple(dict.fromkeys((names.slot(object_id), object_id))),
            nqns=tuple(dict.fromkeys(nqns)),
            paths=(names.volume_path(object_id),),
        )

    def read(self, disk: Disk) -> Owned | None:
        """The disk with its mark; None when it is not ours. DamagedMark, naming the slot, when it may have been."""
        if self.takes_over and taking_over.is_go_volume(disk):
            return Owned(disk, taking_over.mark_for(disk, self.driver, self.cluster))
        try:
            mark = _decode(disk.comment)
        except DamagedMark as error:
            raise DamagedMark(f"disk {disk.slot!r}: {error.message}", remedy=error.remedy) from None
        if mark is None or (mark.driver, mark.cluster) != (self.driver, self.cluster):
            return None
        return Owned(disk, mark)

    def pick(self, names: Names, kind: Kind, object_id: str, disks: Iterable[Disk]) -> Owned | None:
        """The object among what its anchors found; None when nothing was found.

        FailedPrecondition when it is not provably ours, or is there twice; ``Taken`` when it is provably another's.
        """
        found = tuple(disks)
        ours = [item for item in map(self._read_if_whole, found) if item and _is(item.mark, kind, object_id)]
        if len(ours) > 1:
            slots = " and ".join(repr(item.disk.slot) for item in ours)
            raise FailedPrecondition(
                f"the disks {slots} both carry the mark of {object_id}",
                remedy="Find out which one holds the data, and remove the other one's comment.",
            )
        self._check_whole(kind, object_id, found)
        if ours:
            return ours[0]
        if found:
            raise self._in_the_way(names, object_id, found[0])
        return None

    def _read_if_whole(self, disk: Disk) -> Owned | None:
        try:
            return self.read(disk)
        except DamagedMark:
            return None

    def _check_whole(self, kind: Kind, object_id: str, disks: Iterable[Disk]) -> None:
        """DamagedMark when one of the disks carries what was our mark of that very object."""
        for disk in disks:
            if disk.comment.startswith(self.begins(kind, object_id)):
                self.read(disk)

    def _in_the_way(self, names: Names, object_id: str, disk: Disk) -> DriverError:
        other = _decode_or_none(disk)
        if other is not None:
            what = "volume" if other.kind is Kind.VOLUME else "snapshot"
            return Taken(
                f"disk {disk.slot!r}, which {object_id} would be, is {what} {other.object_id} of cluster "
                f"{other.cluster!r} and driver {other.driver!r}",
                owner=other.cluster,
                remedy="Give each cluster its own NQN prefix and base directory, or rename that disk back.",
            )
        if names.is_ours(disk.file_path, object_id):
            return FailedPrecondition(
                f"disk {disk.slot!r} has the file of {object_id}, but its comment lost the mark",
                remedy=f"Restore its comment, or mark it again: rds-csi adopt {disk.slot} --volume-id {object_id}",
            )
        self.read(disk)
        return FailedPrecondition(
            f"disk {disk.slot!r}, in the place of {object_id}, does not carry our mark, so nothing is done to it",
            remedy=f"Rename that disk, or make it a volume: rds-csi adopt {disk.slot}.",
        )


def _is(mark: Mark, kind: Kind, object_id: str) -> bool:
    return (mark.kind, mark.object_id) == (kind, object_id)


def _decode_or_none(disk: Disk) -> Mark | None:
    try:
        return _decode(disk.comment)
    except DamagedMark:
        return None
