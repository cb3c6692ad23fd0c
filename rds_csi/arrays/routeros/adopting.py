"""Taking in a disk that somebody else made: it gets our mark, its data, slot, file and NQN stay."""

from collections.abc import Mapping

from rds_csi.arrays.routeros import fencing, taking_over
from rds_csi.arrays.routeros.commands import Anchors, Command, Deed, Expect, SetDisk
from rds_csi.arrays.routeros.core import Core
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.objects import Adoption, Nodes
from rds_csi.arrays.routeros.options import Fencing
from rds_csi.arrays.routeros.ownership import Owned
from rds_csi.arrays.routeros.pool import Site
from rds_csi.arrays.routeros.records import Disk
from rds_csi.arrays.routeros.volumes import Volumes
from rds_csi.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from rds_csi.model.names import check_nqn, is_id
from rds_csi.model.volumes import Attachment


async def adopt(
    core: Core, volumes: Volumes, slot: str, *, dry_run: bool, volume_id: str = "", nodes: Nodes = None
) -> Adoption:
    """Make the disk in ``slot`` the volume ``volume_id`` (the slot, when it is not named), attached to ``nodes``.

    For disks that others made, and for ours whose comment was emptied. NotFound; AlreadyExists when it or the id is
    taken; FailedPrecondition for what cannot be a volume, and for an exported one of ours while ``nodes`` is None;
    InvalidArgument for an id that is none.
    """
    site = await core.pool.site()
    object_id = volume_id or slot
    if not is_id(object_id):
        raise InvalidArgument(
            f"{object_id[:80]!r} cannot be a volume's id", remedy="Rename the disk: 1 to 63 of a-z 0-9 - are needed."
        )
    found = await core.lookups.find(Anchors(slots=(slot,)))
    if len(found) != 1:
        raise NotFound(f"the array has no disk with the slot {slot!r}")
    disk = found[0]
    _check_disk(core, disk)
    await _check_file(core, disk)
    await _check_id(core, site, disk, object_id)
    lost = _lost(site, disk, object_id, nodes)
    made = site.names.is_ours(disk.file_path, object_id)
    mark = Mark(
        Kind.VOLUME,
        core.options.driver_name,
        core.options.cluster,
        object_id=object_id,
        name=object_id,
        path="" if made else disk.file_path,
        attachments=_checked(core, nodes or ()),
    )
    properties = {**_export(core, site, disk, mark), "comment": mark.encode()}
    if not dry_run:
        disk = await _mark(core, disk, properties)
    nqn = properties.get(_NQN, disk.nqn)
    seen = Owned(disk if disk.nqn == nqn else _with_nqn(disk, nqn), mark)
    changes = tuple(f"{key}={value}" for key, value in sorted(properties.items()))
    return Adoption(volumes.volume(seen), slot, disk.file_path, changes, lost)


_NQN = "nvme-tcp-server-nqn"


def _lost(site: Site, disk: Disk, object_id: str, nodes: Nodes) -> tuple[str, ...]:
    """What the mark of a disk that is named like ours said, and a new one does not.

    FailedPrecondition when it is exported and nobody says to which nodes it is attached: a pod may be writing to it,
    and without an attachment another node would be let in, or its export ended under the pod.
    """
    if site.names.object_in(disk.file_path) is None:
        return ()
    if disk.exported and nodes is None:
        raise FailedPrecondition(
            f"disk {disk.slot!r} is exported and its file is named like one of ours: its mark told to which nodes "
            f"{object_id} is attached, and nobody knows it any more",
            remedy="Look at the VolumeAttachments of the cluster, then say --attached-to NODE-ID, or --not-attached.",
        )
    attached = () if nodes else ("the nodes that it was attached to",)
    return (*attached, "its mutable parameters", "its name and its source, where they were not the id and nothing")


def _checked(core: Core, nodes: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    """FailedPrecondition and InvalidArgument for nodes that the array could not let in."""
    for one in nodes:
        fencing.check_host(core.options.fencing, one, [other for other in nodes if other is not one])
    return nodes


def _check_disk(core: Core, disk: Disk) -> None:
    owned = core.ownership.read(disk)
    if owned is not None and disk.comment:
        raise AlreadyExists(f"disk {disk.slot!r} is {owned.mark.kind.name.lower()} {owned.object_id} already")
    if disk.comment:
        raise FailedPrecondition(
            f"disk {disk.slot!r} has a comment, so it is somebody's",
            remedy="Remove the comment if it is yours to give.",
        )
    if disk.type != "file" or not disk.file_path or disk.slot == core.options.pool:
        raise FailedPrecondition(
            f"disk {disk.slot!r} is of type {disk.type!r}: only a type=file disk can be a volume",
            remedy="Copy its data into a volume instead.",
        )
    if disk.mounted or not disk.size:
        raise FailedPrecondition(
            f"disk {disk.slot!r} is mounted on the array itself, or has no size",
            remedy="Set mount-filesystem=no for it, and look whether its file is there.",
        )


async def _check_file(core: Core, disk: Disk) -> None:
    """AlreadyExists when another disk lies on the same file: two nodes would write to one file under two names."""
    others = [item for item in await core.lookups.all() if item.file_path == disk.file_path and item.id != disk.id]
    if others:
        raise AlreadyExists(
            f"disk {others[0].slot!r} lies on the file {disk.file_path} of disk {disk.slot!r} as well",
            remedy="Remove the disk that is not in use; its file stays.",
        )


async def _check_id(core: Core, site: Site, disk: Disk, object_id: str) -> None:
    """AlreadyExists when another disk is in the place of that id."""
    anchors = core.ownership.anchors(site.names, Kind.VOLUME, object_id)
    others = [item for item in await core.lookups.find(anchors) if item.id != disk.id]
    if others:
        raise AlreadyExists(f"disk {others[0].slot!r} is in the place of volume {object_id} already")
    if not anchors.match(disk):
        raise FailedPrecondition(
            f"disk {disk.slot!r} would not be found again as volume {object_id}",
            remedy="Adopt it under its slot as id, or rename the disk to the id.",
        )


def _export(core: Core, site: Site, disk: Disk, mark: Mark) -> Mapping[str, str]:
    """What must be set so that nodes reach it. Its NQN stays, when it is one, as somebody may know it; but not where
    fencing ends its export, as RouterOS may not tell the NQN then."""
    properties = dict(fencing.changes(core.options.fencing, mark.attachments, disk))
    if not _is_nqn(disk.nqn) or (core.options.fencing is not Fencing.NONE and not taking_over.is_go_volume(disk)):
        properties[_NQN] = site.names.nqn(mark.object_id)
    if not disk.port:
        properties["nvme-tcp-server-port"] = str(core.options.nvme_port)
    return {**properties, "mount-filesystem": "no"}


def _is_nqn(text: str) -> bool:
    try:
        check_nqn(text)
    except InvalidArgument:
        return False
    return True


async def _mark(core: Core, disk: Disk, properties: Mapping[str, str]) -> Disk:
    deed = Deed(Expect(disks=1, disk_id=disk.id, comment=""), (SetDisk(properties),))
    outcome = await core.settling.execute(Command(Anchors(slots=(disk.slot,)), (deed,)))
    if outcome.error:
        raise await core.refused(outcome.error, f"disk {disk.slot!r} could not be adopted")
    if len(outcome.disks) != 1 or outcome.disks[0].comment != properties["comment"]:
        raise Aborted(f"disk {disk.slot!r} was changed by somebody else meanwhile")
    return outcome.disks[0]


def _with_nqn(disk: Disk, nqn: str) -> Disk:
    """How the disk would look (dry run)."""
    return Disk(**{name: getattr(disk, name) for name in Disk.__slots__ if name != "nqn"}, nqn=nqn)
