"""The image directory for asyncio: every blocking step in a worker, under a deadline, run to its end."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from rds_csi.arrays.images import space
from rds_csi.arrays.images.copying import Flush
from rds_csi.arrays.images.folder import Folder
from rds_csi.arrays.images.inspection import inspect_folder, inspect_image
from rds_csi.arrays.images.records import ExportIdentity, GroupRecord, SnapshotRecord, State, VolumeRecord
from rds_csi.arrays.images.snapshots import SnapshotFiles
from rds_csi.arrays.images.volumes import VolumeFiles
from rds_csi.arrays.images.work import Work
from rds_csi.errors import InvalidArgument, Unavailable
from rds_csi.model.sizes import INT64_MAX, MIB
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    Snapshot,
    SnapshotGroup,
    SourceKind,
    VolumeSpec,
)
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

# For reading all records and trying what the filesystem can.
OPEN_SECONDS = 120.0


def _now() -> datetime:
    return datetime.now(UTC)


class ImageStore:
    """Volumes, snapshots and groups in one directory, as records. What is asked for is looked up in memory."""

    def __init__(self, directory: str, workers: Workers, flush: Flush, clock: Callable[[], datetime] = _now) -> None:
        """``flush(image)`` brings what was written to the image through a device into its file."""
        self.directory = directory
        self.largest_volume = INT64_MAX // MIB * MIB
        self._work = Work(workers, directory)
        self._folder = Folder(directory)
        self._volumes = VolumeFiles(self._folder, flush)
        self._snapshots = SnapshotFiles(self._folder, self._volumes, flush, clock)

    async def open(self) -> None:
        """Lock the directory and read its records. ConfigurationError when it cannot be used."""

        def load() -> int:
            self._folder.open()
            try:
                for catalog in (self._volumes.catalog, self._snapshots.catalog, self._snapshots.groups):
                    catalog.load()
                return space.largest_file(self._folder.path)
            except BaseException:
                self._folder.close()
                raise

        self.largest_volume = await self._work.run(load, f"opening {self.directory}", timeout=OPEN_SECONDS)

    async def recover(self) -> None:
        """Remove unfinished snapshots and groups, and write down growth that a killed process did not.

        Unfinished volumes are the array's to discard, as they may be exported.
        """

        def recover() -> None:
            self._snapshots.recover()
            for record in self._volumes.catalog.all():
                if record.state is State.READY:
                    self._follow_growth(record.id)

        await self._work.run(recover, f"recovering {self.directory}", timeout=OPEN_SECONDS)

    def _follow_growth(self, volume_id: str) -> None:
        try:
            self._volumes.follow_growth(volume_id)
        except OSError as error:
            # The volume works at its old size: no reason to keep the others from starting.
            _log.error("the record of volume %s does not follow the growth of its image: %s", volume_id, error)

    def close(self) -> None:
        """Let go of the directory."""
        self._folder.close()

    @property
    def is_open(self) -> bool:
        """Whether the directory is this process's."""
        return self._folder.is_open

    # Volumes

    def image(self, volume_id: str) -> str:
        """The path of a volume's image."""
        return self._volumes.image(volume_id)

    def volume(self, volume_id: str) -> VolumeRecord:
        """The READY volume; NotFound when there is none."""
        self._check_open()
        return self._volumes.get(volume_id)

    def find_volume(self, volume_id: str) -> VolumeRecord | None:
        """The READY volume, if there is one."""
        self._check_open()
        return self._volumes.catalog.ready(volume_id)

    def volumes(self) -> Sequence[VolumeRecord]:
        """The READY volumes, sorted by id."""
        self._check_open()
        return self._volumes.catalog.all_ready()

    def unfinished_volume(self, volume_id: str) -> VolumeRecord | None:
        """The volume, if it is there and neither READY nor gone."""
        self._check_open()
        record = self._volumes.catalog.find(volume_id)
        return record if record is not None and record.state is not State.READY else None

    def unfinished_volumes(self) -> Sequence[VolumeRecord]:
        """The volumes that are there and neither READY nor gone: never shown to anybody, or being deleted."""
        self._check_open()
        return [record for record in self._volumes.catalog.all() if record.state is not State.READY]

    def sound_volumes(self) -> Sequence[VolumeRecord]:
        """The READY volumes, without those whose records are damaged."""
        self._check_open()
        return [record for record in self._volumes.catalog.all() if record.state is State.READY]

    async def create_volume(self, spec: VolumeSpec, export: ExportIdentity | None = None) -> VolumeRecord:
        """Make the volume, or return the READY one of that id."""
        self._check_open()
        check_pool(spec.pool)
        existing = self._volumes.catalog.ready(spec.volume_id)
        if existing is not None:
            return existing
        steps = self._volumes.create(spec, self._source(spec), export)
        return await self._work.drive(steps, f"creating volume {spec.volume_id}", f"volume {spec.volume_id}")

    async def retire_volume(self, volume_id: str) -> VolumeRecord | None:
        """Begin to delete: None when there is nothing. FailedPrecondition while it has attachments."""
        self._check_open()
        what = f"deleting volume {volume_id}"
        return await self._work.finish(partial(self._volumes.retire, volume_id), what, f"volume {volume_id}")

    async def discard_volume(self, volume_id: str) -> None:
        """Remove the files of a volume that is not READY."""
        what = f"deleting volume {volume_id}"
        await self._work.finish(partial(self._volumes.discard, volume_id), what, f"volume {volume_id}")

    async def expand_volume(self, volume_id: str, size: int) -> VolumeRecord:
        """Grow the image to at least ``size`` bytes."""
        self._check_open()
        what = f"growing volume {volume_id}"
        return await self._work.finish(partial(self._volumes.expand, volume_id, size), what, f"volume {volume_id}")

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> VolumeRecord:
        """Replace the mutable parameters."""
        return await self._update(volume_id, lambda record: replace(record, mutable_parameters=dict(parameters)))

    async def set_export(self, volume_id: str, export: ExportIdentity) -> VolumeRecord:
        """Give the volume its NVMe names."""
        return await self._update(volume_id, lambda record: replace(record, export=export))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> VolumeRecord:
        """Record the attachment in place of an older one of the same node."""
        return await self._update(volume_id, lambda record: _with_attachment(record, attachment))

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        """Forget the attachment of the node, or ("") all of them. A volume that is not there has none."""
        if self.find_volume(volume_id) is not None:
            await self._update(volume_id, lambda record: without_node(record, node_id))

    async def _update(self, volume_id: str, change: Callable[[VolumeRecord], VolumeRecord]) -> VolumeRecord:
        self._check_open()

        def step() -> VolumeRecord:
            # Read and compared here, behind the key: while an older write is stalled, the record in memory is not
            # the last word, and a detach that found nothing to do would be undone when that write comes through.
            record = self._volumes.get(volume_id)
            changed = change(record)
            return record if changed == record else self._volumes.update(changed)

        return await self._work.finish(step, f"writing the record of volume {volume_id}", f"volume {volume_id}")

    def _source(self, spec: VolumeSpec) -> tuple[str, int] | None:
        """The image that the volume starts with, and its size."""
        if spec.source is None:
            return None
        source_id = spec.source.source_id
        if spec.source.kind is SourceKind.SNAPSHOT:
            return self._snapshots.image(source_id), self._snapshots.get(source_id).size
        return self._volumes.image(source_id), self._volumes.get(source_id).size

    # Snapshots

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        """Take a snapshot, or return the one of that id."""
        self._check_open()
        steps = self._snapshots.create(snapshot_id, name, volume_id)
        what = f"taking snapshot {snapshot_id} of volume {volume_id}"
        return _snapshot(await self._work.drive(steps, what, f"snapshot {snapshot_id}"))

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove the snapshot; an absent one is fine."""
        self._check_open()
        what = f"deleting snapshot {snapshot_id}"
        await self._work.finish(partial(self._snapshots.delete, snapshot_id), what, f"snapshot {snapshot_id}")

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """The snapshot; NotFound when there is none."""
        self._check_open()
        return _snapshot(self._snapshots.get(snapshot_id))

    def snapshots(self) -> Sequence[Snapshot]:
        """All snapshots, sorted by id."""
        self._check_open()
        return [_snapshot(record) for record in self._snapshots.list()]

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        """Snapshot all volumes, or return the group of that id."""
        self._check_open()
        steps = self._snapshots.create_group(group_id, name, volume_ids)
        return self._group(await self._work.drive(steps, f"taking group snapshot {group_id}", f"group {group_id}"))

    async def delete_group(self, group_id: str) -> None:
        """Remove the group with its snapshots; an absent one is fine."""
        self._check_open()
        what = f"deleting group snapshot {group_id}"
        await self._work.finish(partial(self._snapshots.delete_group, group_id), what, f"group {group_id}")

    def group(self, group_id: str) -> SnapshotGroup:
        """The group; NotFound when there is none."""
        self._check_open()
        return self._group(self._snapshots.get_group(group_id))

    def _group(self, record: GroupRecord) -> SnapshotGroup:
        snapshots = tuple(self.snapshot(snapshot_id) for snapshot_id in record.snapshot_ids)
        return SnapshotGroup(record.id, record.name, snapshots, record.created)

    # The whole

    async def capacity(self, pool: str) -> Capacity:
        """What is free and promised to nobody; a single volume can have all of it. Thin volumes may be larger,
        but not be filled."""
        self._check_open()
        check_pool(pool)
        what = f"looking at the free space of {self.directory}"
        available = await self._work.run(self._volumes.allocator.available, what, "the free space")
        return Capacity(available, min(available // MIB * MIB, self.largest_volume), MIB)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        """What is wrong with the volume's image; NotFound if there is no such volume."""
        record = self.volume(volume_id)
        look = partial(inspect_image, self._folder, self.image(volume_id), record)
        return await self._work.run(look, f"looking at volume {volume_id}", f"the image of volume {volume_id}")

    async def check(self) -> Sequence[Finding]:
        """Look at the directory: room, reflink, damaged records, files that nobody accounts for."""
        if not self._folder.is_open:
            return [Finding("array directory", False, f"{self.directory} is not open", "Start the array.")]
        damaged = [
            text
            for catalog in (self._volumes.catalog, self._snapshots.catalog, self._snapshots.groups)
            for text in catalog.damaged().values()
        ]
        look = partial(inspect_folder, self._folder, self._volumes.allocator, damaged)
        return await self._work.run(look, f"looking at {self.directory}", "the directory")

    def _check_open(self) -> None:
        if not self._folder.is_open:
            raise Unavailable(f"the array's directory {self.directory} is not open")


def check_pool(pool: str) -> None:
    """InvalidArgument for a pool: a directory has none."""
    if pool:
        raise InvalidArgument(
            f"there is no pool {pool!r}: an array of image files is one pool without a name",
            remedy="Leave the parameter 'pool' out.",
        )


def _with_attachment(record: VolumeRecord, attachment: Attachment) -> VolumeRecord:
    others = (item for item in record.attachments if item.node.node_id != attachment.node.node_id)
    return replace(record, attachments=(*others, attachment))


def without_node(record: VolumeRecord, node_id: str) -> VolumeRecord:
    """The record without the attachment of the node, or ("") of every node."""
    kept = tuple(item for item in record.attachments if node_id and item.node.node_id != node_id)
    return replace(record, attachments=kept)


def _snapshot(record: SnapshotRecord) -> Snapshot:
    return Snapshot(
        snapshot_id=record.id,
        name=record.name,
        source_volume_id=record.source_volume_id,
        size=record.size,
        created=record.created,
        group_id=record.group_id,
    )
