"""Volumes: made, found, listed and removed."""

from dataclasses import dataclass, replace

from rds_csi.arrays.routeros import fencing
from rds_csi.arrays.routeros.commands import (
    AddDisk,
    AddSubvolume,
    Anchors,
    Command,
    Deed,
    Expect,
    MakeDirectory,
    Outcome,
    RemoveDisk,
    RemoveSubvolume,
    Step,
)
from rds_csi.arrays.routeros.copy_records import check_idle
from rds_csi.arrays.routeros.core import Core, check_nothing_left
from rds_csi.arrays.routeros.mark import Kind, Mark
from rds_csi.arrays.routeros.names import slot_for
from rds_csi.arrays.routeros.ownership import Owned, Taken
from rds_csi.arrays.routeros.pool import Site
from rds_csi.arrays.routeros.removing import check_same
from rds_csi.arrays.routeros.settling import is_final
from rds_csi.arrays.routeros.taking_over import go_nqn, is_go_id
from rds_csi.errors import AlreadyExists, DriverError, FailedPrecondition, Internal, NotFound, Unavailable
from rds_csi.model.sizes import MIB, round_up
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import Volume, VolumeSpec
from rds_csi.retry import poll

VOLUME = Kind.VOLUME

# Seconds in which the array tells the size of a file that it has just made or grown.
SIZE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Adding:
    """How a volume is added: the deed that is tried first, the one that is tried again when RouterOS refused it, and
    when what a refused one may have left is this call's to remove."""

    first: Deed
    again: Deed
    undo: Expect


class Volumes:
    """The volumes on the array; each is one disk, whose comment says all that is remembered of it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def get(self, volume_id: str) -> Volume:
        """The volume, looked at now; NotFound when it is known to be absent, or not made from its source yet: the
        repeated CreateVolume goes on with that."""
        owned = await self._core.find(VOLUME, volume_id)
        if owned is None or not owned.mark.ready:
            raise not_found(volume_id)
        return self.volume(owned)

    async def need(self, volume_id: str) -> Owned:
        """The volume's disk; NotFound when there is none, Unavailable while it is being made from its source."""
        owned = await self._core.find(VOLUME, volume_id)
        if owned is None:
            raise not_found(volume_id)
        if not owned.mark.ready:
            raise Unavailable(f"volume {volume_id} is being made from its source")
        return owned

    async def list_all(self) -> list[Volume]:
        """All volumes, sorted by id."""
        return [self.volume(owned) for owned in await self._core.all(VOLUME) if owned.mark.ready]

    def volume(self, owned: Owned) -> Volume:
        """What the services see of it."""
        disk, mark, options = owned.disk, owned.mark, self._core.options
        return Volume(
            volume_id=mark.object_id,
            name=mark.name,
            size=disk.size,
            target=NvmeTarget(self._nqn(owned), options.nvme_addresses, disk.port or options.nvme_port),
            pool=options.pool,
            provisioning=mark.provisioning,
            source=mark.source,
            mutable_parameters=mark.mutable_parameters,
            attachments=mark.attachments,
        )

    def _nqn(self, owned: Owned) -> str:
        """Under which NQN it is exported, or will be: RouterOS may not tell while it is not (facts, 1.8)."""
        volume_id = owned.object_id
        if not owned.disk.nqn and owned.mark.path and is_go_id(volume_id):
            return go_nqn(volume_id)
        return owned.disk.nqn or f"{self._core.options.nqn_prefix}{slot_for(volume_id)}"

    def mark(self, spec: VolumeSpec, *, ready: bool = True) -> Mark:
        """The mark of a new volume. Space is always set aside at once (facts, 1.4)."""
        return Mark(
            VOLUME,
            self._core.options.driver_name,
            self._core.options.cluster,
            object_id=spec.volume_id,
            name=spec.name,
            source=spec.source,
            mutable_parameters=dict(spec.mutable_parameters),
            ready=ready,
        )

    def new_disk(self, site: Site, mark: Mark, size: int | None) -> AddDisk:
        """The step that adds the disk of a new volume; ``size`` in bytes, None for that of the file that is there."""
        options, volume_id = self._core.options, mark.object_id
        exported = fencing.is_exported(options.fencing, ())
        export = {
            fencing.EXPORT: fencing.yes_or_no(exported),
            "nvme-tcp-server-port": str(options.nvme_port),
            "nvme-tcp-server-nqn": site.names.nqn(volume_id),
        }
        path = site.names.volume_path(volume_id)
        return AddDisk({**file_disk(site.names.slot(volume_id), path, size), **export, "comment": mark.encode()})

    async def create(self, spec: VolumeSpec) -> Volume:
        """Make an empty volume, or return the one of that id as it is."""
        site = await self._core.pool.writable()
        size = round_up(spec.size, MIB)
        disk = self.new_disk(site, self.mark(spec), size)
        if site.names.subvolumes:
            fs, subvolume = site.filesystem, site.names.volume_subvolume(spec.volume_id)
            new: tuple[Step, ...] = (AddSubvolume(fs, subvolume), disk)
            nothing = Expect(disks=0, no_file=True)
            # A name that is taken is refused. With no file in it, it is the empty subvolume of a killed call.
            adding = Adding(Deed(Expect(disks=0), new), Deed(nothing, (RemoveSubvolume(fs, subvolume), *new)), nothing)
        else:
            deed = Deed(Expect(disks=0, no_file=True), (disk,))
            adding = Adding(deed, deed, undo=Expect(disks=0))
        owned, made = await self.add(site, spec.volume_id, adding, size)
        return self.volume(await self.check_size(site, owned, size) if made else owned)

    async def add(self, site: Site, volume_id: str, adding: Adding, size: int) -> tuple[Owned, bool]:
        """Add the volume's disk; the disk, and whether this call made it. ``size`` bytes are needed."""
        what = f"volume {volume_id} could not be made"
        outcome = await self._try(site, volume_id, adding.first, adding.undo)
        # With a disk there, somebody else was faster, or only its growth was refused: it is told as it is.
        if outcome.error and not outcome.disks:
            if is_final(outcome.error) or not await self._core.pool.has_room(size):
                raise await self._core.refused(outcome.error, what, size)
            await make_directory(self._core)
            outcome = await self._try(site, volume_id, adding.again, adding.undo)
            if outcome.error and not outcome.disks:
                raise await self._core.refused(outcome.error, what, size)
        if outcome.files and not outcome.disks:
            # Over REST disks are looked at before files: somebody else may have made it in between.
            anchors = self._core.ownership.anchors(site.names, VOLUME, volume_id)
            outcome = replace(outcome, disks=await self._core.lookups.find(anchors))
        return self._added(site, volume_id, outcome), outcome.done == 0 and not outcome.error

    async def _try(self, site: Site, volume_id: str, deed: Deed, undo: Expect) -> Outcome:
        """The outcome of the deed; what it may have left when it was refused half-way is removed."""
        anchors = self._core.ownership.anchors(site.names, VOLUME, volume_id)
        outcome = await self._core.settling.execute(Command(anchors, (deed,)))
        if outcome.error and outcome.done == 0 and not outcome.disks:
            removal = self._core.removal(site, site.names.volume_path(volume_id))
            await self._core.settling.execute(Command(anchors, (Deed(undo, removal),)))
        return outcome

    def _added(self, site: Site, volume_id: str, outcome: Outcome) -> Owned:
        try:
            owned = self._core.pick(site, VOLUME, volume_id, outcome.disks)
        except Taken as error:
            raise AlreadyExists(error.message, remedy=error.remedy) from None
        if owned is not None:
            return owned
        if outcome.files:
            raise FailedPrecondition(
                f"the file {outcome.files[0].name} is there without a disk; it may hold data, so volume {volume_id} is "
                "not made over it",
                remedy="See rds-csi orphans; delete the volume (DeleteVolume), or move the file away.",
            )
        raise Unavailable(f"volume {volume_id} is not there although it was made")

    async def check_size(self, site: Site, owned: Owned, size: int) -> Owned:
        """The volume that this call made, when it has ``size`` bytes; else it is removed again."""
        owned = await wait_for_size(self._core, owned, size)
        if owned.disk.size >= size:
            return owned
        volume_id, told = owned.object_id, owned.disk.size
        steps = (RemoveDisk(), *self._core.removal(site, self._core.file_of(site, owned)))
        made = owned.disk.comment

        def undo(seen: Owned) -> tuple[Step, ...] | None:
            return steps if seen.disk.comment == made else None

        await self._core.change(VOLUME, volume_id, undo, what=f"volume {volume_id} could not be removed again")
        raise Internal(f"volume {volume_id} was made with {told} bytes instead of {size}, and removed again")

    async def delete(self, volume_id: str, disk_id: str = "") -> None:
        """Remove the volume's disk and file, and what a killed deletion left of it; with ``disk_id`` the disk with that
        id only, with its file: FailedPrecondition when the volume has another one."""
        site = await self._core.pool.writable()
        seen = disk_id or self._core.remembered(VOLUME, volume_id)
        if not seen and await self._clear(site, volume_id):
            return

        def plan(owned: Owned) -> tuple[Step, ...]:
            check_same(owned, disk_id)
            check_unattached(owned)
            check_idle(owned)
            return (RemoveDisk(), *self._core.removal(site, self._core.file_of(site, owned)))

        what = f"volume {volume_id}"
        change = await self._core.change(VOLUME, volume_id, plan, what=f"{what} could not be removed")
        if change.outcome is not None:
            check_nothing_left(what, change.outcome)
        elif not await self._clear(site, volume_id):
            raise appeared(what)

    async def _clear(self, site: Site, volume_id: str) -> bool:
        """Remove the volume's file, which is ours by its name, if no disk is there; whether none is."""
        anchors = self._core.ownership.anchors(site.names, VOLUME, volume_id)
        return await clear(self._core, site, VOLUME, volume_id, anchors, site.names.volume_path(volume_id))


async def clear(core: Core, site: Site, kind: Kind, object_id: str, anchors: Anchors, path: str) -> bool:
    """Remove the file at ``path``, which is ours by its name, if the anchors find no disk; whether they find none."""
    what = f"{kind.name.lower()} {object_id}"
    command = Command(anchors, (Deed(Expect(disks=0), core.removal(site, path)),))
    outcome = await core.settling.execute(command)
    if outcome.error:
        # Also where there was never a base directory: then, and only with the pool there, nothing was ever made.
        await make_directory(core)
        outcome = await core.settling.execute(command)
    if outcome.error:
        raise await core.refused(outcome.error, f"the file of {what} could not be removed")
    if core.pick(site, kind, object_id, outcome.disks) is not None:
        return False
    check_nothing_left(what, outcome)
    return True


def appeared(what: str) -> DriverError:
    """The error for a deletion that found no disk, and then one: made anew, or by an earlier call still at work."""
    return Unavailable(
        f"{what} is not removed: a disk has appeared meanwhile", remedy="The call is repeated by itself."
    )


async def wait_for_size(core: Core, owned: Owned, size: int) -> Owned:
    """The volume once it has ``size`` bytes, else as it was seen last: RouterOS may tell them a moment later than the
    rest. NotFound when it is gone."""
    last = owned

    async def look() -> Owned | None:
        nonlocal last
        seen = await core.find(VOLUME, owned.object_id)
        if seen is None:
            raise not_found(owned.object_id)
        last = seen
        return seen if seen.disk.size >= size else None

    if owned.disk.size < size:
        await poll(look, timeout=SIZE_SECONDS, clock=core.clock)
    return last


async def make_directory(core: Core) -> None:
    """Make the base directory, with the pool seen mounted a moment ago: never on the device's own flash."""
    site = await core.pool.look()
    if site.trouble is not None:
        raise site.trouble
    parts = core.options.base.split("/")
    paths = ["/".join((site.names.pool_directory, *parts[: index + 1])) for index in range(len(parts))]
    deed = Deed(Expect(disks=1), tuple(MakeDirectory(path) for path in paths))
    outcome = await core.settling.execute(Command(Anchors(slots=(core.options.pool,)), (deed,)))
    if outcome.error:
        raise await core.refused(outcome.error, f"the directory {site.names.directory} could not be made")


def file_disk(slot: str, path: str, size: int | None) -> dict[str, str]:
    """The properties of a ``type=file`` disk that RouterOS neither mounts nor shares by itself (lessons, facts 1.5)."""
    sized = {} if size is None else {"file-size": str(size)}
    no = {"mount-filesystem": "no", "smb-sharing": "no", "media-sharing": "no"}
    return {"type": "file", "slot": slot, "file-path": f"/{path}", **sized, **no}


def check_unattached(owned: Owned) -> None:
    """FailedPrecondition, naming the nodes, while the volume has attachments."""
    if owned.mark.attachments:
        nodes = ", ".join(sorted(item.node.node_id for item in owned.mark.attachments))
        raise FailedPrecondition(
            f"volume {owned.object_id} is published to {nodes}", remedy="Unpublish it first (ControllerUnpublish)."
        )


def not_found(volume_id: str) -> DriverError:
    """The error for a volume that is known to be absent."""
    return NotFound(f"volume {volume_id} does not exist on this array")
