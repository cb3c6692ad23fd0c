"""Everything of ours on a device, as ``rds-csi orphans`` judges it: disks with our mark, and files without a disk."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, runtime_checkable

from rds_csi.arrays.routeros.client import Client
from rds_csi.arrays.routeros.copy_records import Copy
from rds_csi.arrays.routeros.mark import FORMAT, DamagedMark, Kind, Mark
from rds_csi.arrays.routeros.names import Names, proof_for, slot_for, snapshot_slot_for
from rds_csi.arrays.routeros.ownership import Ownership
from rds_csi.arrays.routeros.records import Disk, File, Subvolume
from rds_csi.model.names import is_id
from rds_csi.model.volumes import Attachment, Volume

# The attachments of a disk as somebody tells them; None: nobody has.
Nodes = tuple[Attachment, ...] | None

_DIRECTORY = "directory"
_SNAPSHOT_SLOT = "s-"
_COPYING = "it is being copied, or the copy was cut off"


class ObjectKind(StrEnum):
    """What something on the array is."""

    VOLUME = "volume"
    SNAPSHOT = "snapshot"
    # Named like a file or subvolume of ours, and no disk speaks of it.
    LEFTOVER = "leftover"
    # A disk that was ours, as far as one can tell: its mark was edited or removed.
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class ArrayObject:
    """One thing on the array that is ours, or may be.

    ``object_id`` is the CSI id, "" where it is not known. ``problem`` is what is wrong with it in words, "" when it is
    whole. ``incarnation`` tells it from an earlier one of the same name (RouterOS's id of the disk). ``driver``,
    ``cluster`` and ``proof`` are of a leftover, whose name is all that speaks for it. ``unmarked`` is a volume of the
    Go driver that nobody has marked: only its names speak for it, and those tell no cluster.
    """

    kind: ObjectKind
    object_id: str
    slot: str
    path: str
    size: int = 0
    attached_to: tuple[str, ...] = ()
    group_id: str = ""
    problem: str = ""
    incarnation: str = ""
    driver: str = ""
    cluster: str = ""
    proof: str = ""
    unmarked: bool = False

    @property
    def key(self) -> str:
        """How it is called in a list: ``volume/<id>``, ``snapshot/<id>``, ``leftover/<path>``, ``damaged/<slot>``."""
        names = {ObjectKind.LEFTOVER: self.path, ObjectKind.DAMAGED: self.slot}
        return f"{self.kind}/{names.get(self.kind, self.object_id)}"


def is_of_snapshot(item: ArrayObject, object_id: str) -> bool:
    """Whether it is a snapshot, or what is left of the snapshot ``object_id``. The slot of a volume may begin with the
    same letters."""
    if item.kind is not ObjectKind.LEFTOVER:
        return item.kind is ObjectKind.SNAPSHOT
    return is_id(object_id) and item.slot == snapshot_slot_for(object_id)


@dataclass(frozen=True, slots=True)
class Adoption:
    """What an adoption did, or (dry run) would do: ``changes`` in words, and the volume that comes of it.
    ``lost``: what was in an earlier mark of ours, and nobody knows any more."""

    volume: Volume
    slot: str
    path: str
    changes: tuple[str, ...]
    lost: tuple[str, ...] = ()


@runtime_checkable
class Inventory(Protocol):
    """An array that can tell all that is on it, and take in what others made."""

    async def list_objects(self) -> Sequence[ArrayObject]:
        """Everything of ours, and everything that may have been. Unavailable when a part of it cannot be known."""
        ...

    async def delete_object(self, item: ArrayObject) -> None:
        """Remove what ``list_objects`` told, if it is still that: a disk that was made anew under its name is another,
        and a leftover is its file and nothing else. ``object_id`` has to be known. FailedPrecondition for what is
        attached, not provably ours, or another by now."""
        ...

    async def adopt(self, slot: str, dry_run: bool, volume_id: str = "", nodes: Nodes = None) -> Adoption:
        """Make the disk in ``slot`` a volume (``volume_id``, else the slot); its data stays. ``nodes``: the attachments
        that it has, () for none; None: nobody has said. NotFound for an absent disk; FailedPrecondition for one that
        cannot be a volume, and for one of ours about whose nodes somebody has to say; AlreadyExists for one that is
        somebody's."""
        ...


async def list_objects(client: Client, ownership: Ownership, names: Names) -> Sequence[ArrayObject]:
    """Everything of ours, sorted by key.

    The files are looked at between two looks at the disks: what is made or removed meanwhile is neither a file
    without a disk nor a disk without a file.
    """
    before = await client.list_disks()
    files = await client.list_files(names.directory)
    subvolumes = await client.list_subvolumes() if names.subvolumes else ()
    after = await client.list_disks()
    return classify(ownership, names, before=before, files=files, subvolumes=subvolumes, after=after)


def classify(
    ownership: Ownership,
    names: Names,
    *,
    before: Sequence[Disk],
    files: Sequence[File],
    subvolumes: Sequence[Subvolume],
    after: Sequence[Disk],
) -> Sequence[ArrayObject]:
    """What the looks show. Pure."""
    there = frozenset(file.name for file in files)
    steady = {disk.id for disk in before}
    found = [
        item
        for disk in after
        if (item := _of_disk(ownership, disk, names, there if disk.id in steady else None)) is not None
    ]
    taken = frozenset(disk.file_path for disk in (*before, *after) if disk.file_path)
    copies = frozenset(_copies(ownership, (*before, *after)))
    for item in _leftovers(ownership, names, files, subvolumes, taken):
        copied = find_id(copies, item.driver, item.cluster, item.slot, item.proof)
        found.append(replace(item, object_id=copied, problem=_COPYING) if copied else item)
    return sorted(found, key=lambda item: item.key)


def _copies(ownership: Ownership, disks: Iterable[Disk]) -> Iterator[str]:
    """The ids that marks of sources name as being copied: their files have no disks until that has ended."""
    for disk in disks:
        with contextlib.suppress(DamagedMark):
            owned = ownership.read(disk)
            if owned is not None and owned.mark.job:
                yield Copy.decode(owned.mark.job).object_id


def _of_disk(ownership: Ownership, disk: Disk, names: Names, files: frozenset[str] | None) -> ArrayObject | None:
    """``files``: those that are there, None when the disk is too new for them."""
    try:
        owned = ownership.read(disk)
    except DamagedMark as error:
        return _damaged(disk, error.message)
    if owned is None:
        # The whole mark of another driver or cluster is no damage.
        lost = names.object_in(disk.file_path) is not None and not disk.comment.startswith(f"{FORMAT}/")
        return _damaged(disk, "its file is named like one of ours, but its comment has no mark") if lost else None
    mark = owned.mark
    return ArrayObject(
        kind=ObjectKind.VOLUME if mark.kind is Kind.VOLUME else ObjectKind.SNAPSHOT,
        object_id=mark.object_id,
        slot=disk.slot,
        path=disk.file_path,
        size=disk.size,
        attached_to=tuple(item.node.node_id for item in mark.attachments),
        group_id=mark.group_id,
        problem=_problem(disk, mark, names, files),
        incarnation=disk.id,
        unmarked=not disk.comment,
    )


def _damaged(disk: Disk, problem: str) -> ArrayObject:
    return ArrayObject(
        ObjectKind.DAMAGED, "", disk.slot, disk.file_path, disk.size, problem=problem, incarnation=disk.id
    )


def _problem(disk: Disk, mark: Mark, names: Names, files: frozenset[str] | None) -> str:
    # Only files below the base directory were listed; and what is still being copied may have none yet.
    listed = files is not None and disk.file_path.startswith(f"{names.directory}/")
    if listed and mark.ready and files is not None and disk.file_path not in files:
        return f"its file {disk.file_path} is gone"
    if disk.disabled:
        return "its disk is disabled"
    return "" if mark.ready else f"it is not ready: {_COPYING}"


def _leftovers(
    ownership: Ownership,
    names: Names,
    files: Sequence[File],
    subvolumes: Sequence[Subvolume],
    taken: frozenset[str],
) -> Iterator[ArrayObject]:
    sizes: Mapping[str, int] = {file.name: file.size for file in files if file.type != _DIRECTORY}
    claimed = taken | frozenset(path.rpartition("/")[0] for path in (*taken, *sizes))
    own = (f"{names.pool_directory}/{item.name}" for item in subvolumes)
    for path in (*sizes, *(path for path in own if path not in claimed)):
        parts = names.object_in(path)
        if path in taken or parts is None:
            continue
        slot, proof = parts
        yield ArrayObject(
            kind=ObjectKind.LEFTOVER,
            object_id=_known_id(ownership, slot, proof),
            slot=slot,
            path=path,
            size=sizes.get(path, 0),
            problem="no disk speaks of it",
            driver=ownership.driver,
            cluster=ownership.cluster,
            proof=proof,
        )


def _known_id(ownership: Ownership, slot: str, proof: str) -> str:
    """The id that a plain slot tells, when the proof is of it; a slot with a digest tells none."""
    return find_id((slot, slot.removeprefix(_SNAPSHOT_SLOT)), ownership.driver, ownership.cluster, slot, proof)


def find_id(candidates: Iterable[str], driver: str, cluster: str, slot: str, proof: str) -> str:
    """The one of the candidates for which slot and proof were made, or ""."""
    for object_id in candidates:
        if (
            is_id(object_id)
            and slot in (slot_for(object_id), snapshot_slot_for(object_id))
            and proof == proof_for(driver, cluster, object_id)
        ):
            return object_id
    return ""
