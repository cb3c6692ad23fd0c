"""What is an orphan on an array, and what of it may be deleted. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rds_csi.arrays.routeros.objects import ArrayObject, ObjectKind, find_id, is_of_snapshot


class Verdict(StrEnum):
    """What something on the array is, as far as it is known."""

    IN_USE = "in use"
    ORPHAN = "orphan"
    DAMAGED = "damaged"
    # Named like ours, and nothing proves it, or that it is this cluster's: left alone.
    UNPROVEN = "unproven"
    # Nobody said what is in use.
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class InUse:
    """The handles that a cluster has. ``snapshots`` is None when nothing was said about snapshots. ``no_volumes`` and
    ``no_snapshots``: it was said in so many words that there are none."""

    volumes: frozenset[str]
    snapshots: frozenset[str] | None = None
    no_volumes: bool = False
    no_snapshots: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """One object with its verdict. ``array`` is the name of its array, "" for the only one; ``object_id`` is the id by
    which the array deletes it, "" when it is not known."""

    array: str
    item: ArrayObject
    verdict: Verdict
    reason: str
    object_id: str

    @property
    def key(self) -> str:
        """How it is called in the report and in the list of what to delete."""
        return f"{self.array}:{self.item.key}" if self.array else self.item.key

    @property
    def is_snapshot(self) -> bool:
        """Whether it is, or was, a snapshot."""
        return is_of_snapshot(self.item, self.object_id)


def judge(array: str, item: ArrayObject, in_use: InUse | None, known_ids: Collection[str]) -> Judged:
    """``known_ids``: ids of volumes and snapshots that were here before, by which leftovers are told."""
    if item.kind is ObjectKind.DAMAGED:
        return Judged(array, item, Verdict.DAMAGED, item.problem, "")
    object_id = item.object_id or _identify(item, in_use, known_ids)
    verdict, reason = _judge(item, object_id, in_use)
    return Judged(array, item, verdict, reason, object_id)


def _identify(item: ArrayObject, in_use: InUse | None, known_ids: Iterable[str]) -> str:
    told = (*in_use.volumes, *(in_use.snapshots or ())) if in_use else ()
    return find_id((*told, *known_ids), item.driver, item.cluster, item.slot, item.proof)


def _judge(item: ArrayObject, object_id: str, in_use: InUse | None) -> tuple[Verdict, str]:
    if not object_id:
        return Verdict.UNPROVEN, f"{item.problem}; nothing proves that it is ours, so it is left alone"
    if item.attached_to:
        nodes = ", ".join(item.attached_to)
        return (Verdict.DAMAGED if item.problem else Verdict.IN_USE), _joined(f"attached to {nodes}", item.problem)
    wanted = _handles(item, object_id, in_use)
    if wanted is None:
        return (Verdict.DAMAGED if item.problem else Verdict.NOT_JUDGED), item.problem
    if object_id in wanted:
        return (Verdict.DAMAGED if item.problem else Verdict.IN_USE), _joined("the cluster has it", item.problem)
    if item.unmarked:
        # Two clusters with the Go driver may share the device: that this one does not have it proves nothing.
        return Verdict.UNPROVEN, _joined("the cluster does not have it, and it carries no mark yet", item.problem)
    group = f"part of group snapshot {item.group_id}" if item.group_id else ""
    return Verdict.ORPHAN, _joined("the cluster does not have it", group, item.problem)


def _handles(item: ArrayObject, object_id: str, in_use: InUse | None) -> frozenset[str] | None:
    if in_use is None:
        return None
    return in_use.snapshots if is_of_snapshot(item, object_id) else in_use.volumes


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def why_not_deleted(judged: Judged, age: float | None, apart: float, lists_apart: float | None = None) -> str:
    """Why it must not be deleted now; "" when it may. ``age``: seconds since an earlier report saw it so, and
    ``lists_apart`` (None: the same) those between the lists of handles of that report and of this one."""
    if judged.verdict is not Verdict.ORPHAN:
        return f"it is {judged.verdict}: {judged.reason}"
    if judged.item.group_id:
        return f"it goes with its group snapshot {judged.item.group_id}"
    if age is None:
        return "no earlier report has seen it as an orphan: run the report, wait, and ask again"
    if age < apart:
        return f"it was seen first {age:.0f} s ago: {apart:.0f} s have to lie between two sightings"
    if lists_apart is not None and lists_apart < apart:
        return f"its two lists of handles were made {lists_apart:.0f} s apart, not {apart:.0f}: make the list anew"
    return ""


def why_list_is_doubtful(in_use: InUse, everything: Sequence[Judged], *, most: bool = False) -> str:
    """Why nothing at all must be deleted by this list; "" when it is a whole one of this cluster. ``most``: a person
    has seen that most of what is there are orphans."""
    volumes = [item for item in everything if not item.is_snapshot]
    doubts = [_doubt("volumes", "# none", volumes, in_use.volumes, none=in_use.no_volumes, most=most)]
    if in_use.snapshots is not None:
        snapshots = [item for item in everything if item.is_snapshot]
        doubts.append(_doubt("snapshots", "s: none", snapshots, in_use.snapshots, none=in_use.no_snapshots, most=most))
    return next(filter(None, doubts), "")


def _doubt(what: str, sign: str, there: Sequence[Judged], listed: frozenset[str], *, none: bool, most: bool) -> str:
    known = {item.object_id for item in there if item.object_id}
    if not known or none:
        return ""
    if not listed:
        return f"the list names no {what}: was its command refused? If really none is in use, write the line: {sign}"
    if not known & listed:
        return f"none of the {what} in use is on the array: that is the list of another cluster, driver or array"
    disks = [item for item in there if item.object_id and item.item.kind is not ObjectKind.LEFTOVER]
    orphans = sum(item.verdict is Verdict.ORPHAN for item in disks)
    if 2 * orphans > len(disks) and not most:
        return f"{orphans} of {len(disks)} {what} would be orphans: is the list whole? If it is: --most-are-orphans"
    return ""
