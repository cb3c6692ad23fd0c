"""Taking and deleting snapshots and groups of them, by the same protocol as volumes.

A group's record comes before its snapshots' records and goes after them, and it is READY only when all of them
are: the one write of the group's READY record is what makes the group be there. A snapshot of a group that is
not READY does not exist for anybody.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from datetime import datetime

from rds_csi.arrays.images.catalog import Catalog
from rds_csi.arrays.images.copying import Flush, Job, Progress, make_images
from rds_csi.arrays.images.folder import GROUPS, SNAPSHOTS, Folder
from rds_csi.arrays.images.records import Codec, GroupRecord, SnapshotRecord, State
from rds_csi.arrays.images.volumes import VolumeFiles
from rds_csi.atomic import remove_durably
from rds_csi.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from rds_csi.model.names import id_for_name


class SnapshotFiles:
    """The snapshots and groups of a folder. Everything is blocking; calls for one id come one at a time."""

    def __init__(self, folder: Folder, volumes: VolumeFiles, flush: Flush, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._volumes = volumes
        self._flush = flush
        self._clock = clock
        self.catalog = Catalog(
            folder.below(SNAPSHOTS), Codec(SnapshotRecord), lambda record: replace(record, state=State.DELETING)
        )
        self.groups = Catalog(
            folder.below(GROUPS), Codec(GroupRecord), lambda record: replace(record, state=State.DELETING)
        )

    def image(self, snapshot_id: str) -> str:
        """The path of the snapshot's image."""
        return self._folder.image(SNAPSHOTS, snapshot_id)

    def get(self, snapshot_id: str) -> SnapshotRecord:
        """The snapshot; NotFound when there is none."""
        record = self.catalog.ready(snapshot_id)
        if record is None or not self._is_shown(record):
            raise NotFound(f"snapshot {snapshot_id} does not exist in {self._folder.path}")
        return record

    def list(self) -> "Sequence[SnapshotRecord]":
        """All snapshots, sorted by id."""
        return [record for record in self.catalog.all_ready() if self._is_shown(record)]

    def get_group(self, group_id: str) -> GroupRecord:
        """The group; NotFound when there is none."""
        group = self.groups.ready(group_id)
        if group is None:
            raise NotFound(f"group snapshot {group_id} does not exist in {self._folder.path}")
        return group

    def create(self, snapshot_id: str, name: str, volume_id: str) -> Generator[Progress, None, SnapshotRecord]:
        """Take a snapshot; one that is there stays as it is."""
        existing = self.catalog.find(snapshot_id)
        if existing is not None and existing.state is State.READY and self._is_shown(existing):
            return existing
        if existing is not None and existing.group_id and self.groups.find(existing.group_id) is not None:
            raise AlreadyExists(f"snapshot {snapshot_id} belongs to the unfinished group {existing.group_id}")
        volume = self._volumes.get(volume_id)
        self._make_way(snapshot_id, existing)
        record = SnapshotRecord(snapshot_id, name, volume_id, volume.size, self._clock(), State.CREATING)
        try:
            yield from self._take([record])
        except Exception:
            with contextlib.suppress(OSError):
                self._discard(snapshot_id)
            raise
        return self.get(snapshot_id)

    def delete(self, snapshot_id: str) -> None:
        """Remove the snapshot; an absent one is fine. InvalidArgument for one of a group (CSI 1.13,
        "DeleteSnapshot Errors")."""
        record = self.catalog.find(snapshot_id)
        if record is None:
            return
        if record.group_id and self.groups.find(record.group_id) is not None:
            raise InvalidArgument(
                f"snapshot {snapshot_id} is part of the group {record.group_id}",
                remedy="Delete the group (DeleteVolumeGroupSnapshot).",
            )
        if record.state is State.READY:
            self.catalog.retire(record)
        self._discard(snapshot_id)

    def create_group(
        self, group_id: str, name: str, volume_ids: Sequence[str]
    ) -> Generator[Progress, None, GroupRecord]:
        """Take snapshots of all volumes; a group that is there stays as it is."""
        existing = self.groups.find(group_id)
        if existing is not None and existing.state is State.READY:
            return existing
        volumes = [self._volumes.get(volume_id) for volume_id in dict.fromkeys(volume_ids)]
        if not volumes:
            raise InvalidArgument(f"group snapshot {group_id} has no volumes")
        created = self._clock()
        if existing is not None:
            self.discard_group(group_id)
        records = [
            SnapshotRecord(
                id=id_for_name(f"{group_id}-{volume.id}"),
                name=f"{name}-{volume.id}",
                source_volume_id=volume.id,
                size=volume.size,
                created=created,
                state=State.CREATING,
                group_id=group_id,
            )
            for volume in volumes
        ]
        for record in records:
            if self.catalog.find(record.id) is not None:
                raise AlreadyExists(f"snapshot {record.id} exists and does not belong to the group {group_id}")
            self._make_way(record.id, None)
        group = GroupRecord(group_id, name, tuple(record.id for record in records), created, State.CREATING)
        ready = replace(group, state=State.READY)
        try:
            self.groups.put(group)
            yield from self._take(records)
            self.groups.put(ready)
        except Exception:
            with contextlib.suppress(OSError):
                self.discard_group(group_id)
            raise
        return ready

    def delete_group(self, group_id: str) -> None:
        """Remove the group with its snapshots; an absent one is fine."""
        group = self.groups.find(group_id)
        if group is None:
            return
        if group.state is State.READY:
            self.groups.retire(group)
        self.discard_group(group_id)

    def discard_group(self, group_id: str) -> None:
        """Remove what there is of a group that is not READY: snapshots first."""
        for record in self.catalog.all():
            if record.group_id == group_id:
                self._discard(record.id)
        self.groups.remove(group_id)

    def recover(self) -> None:
        """Remove what a killed predecessor left unfinished: nobody was told of it, or it was to be deleted."""
        for group in self.groups.all():
            if group.state is not State.READY:
                self.discard_group(group.id)
        for record in self.catalog.all():
            if record.state is not State.READY:
                self._discard(record.id)

    def _take(self, records: "Sequence[SnapshotRecord]") -> Generator[Progress, None, None]:
        for record in records:
            self.catalog.put(record)
        jobs = [
            Job(
                destination=self.image(record.id),
                size=record.size,
                allocate=self._volumes.allocator.allocate_thin,
                source=self._volumes.image(record.source_volume_id),
                source_size=record.size,
            )
            for record in records
        ]
        yield from make_images(jobs, self._flush)
        for record in records:
            self.catalog.put(replace(record, state=State.READY))

    def _discard(self, snapshot_id: str) -> None:
        remove_durably(self.image(snapshot_id))
        self.catalog.remove(snapshot_id)

    def _is_shown(self, record: SnapshotRecord) -> bool:
        if not record.group_id:
            return True
        group = self.groups.find(record.group_id)
        # A group's record goes last: one that is absent was removed by hand, and its snapshots are whole.
        return group is None or group.state is State.READY

    def _make_way(self, snapshot_id: str, existing: SnapshotRecord | None) -> None:
        if existing is not None:
            self._discard(snapshot_id)
        elif os.path.lexists(self.image(snapshot_id)):
            raise FailedPrecondition(
                f"{self.image(snapshot_id)} is in the way and no record accounts for it",
                remedy="Somebody else put it there: move it away, or restore its record.",
            )
