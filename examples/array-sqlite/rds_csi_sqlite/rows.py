"""What the rows of the records hold: volumes, snapshots and groups as JSON."""

import contextlib
from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from rds_csi.errors import Internal
from rds_csi.model.volumes import Snapshot, SnapshotGroup, Volume
from rds_csi_sqlite.records import GROUP, SNAPSHOT, VOLUME, Row

_VOLUMES = TypeAdapter(Volume)
_SNAPSHOTS = TypeAdapter(Snapshot)
_GROUPS = TypeAdapter(SnapshotGroup)


@contextlib.contextmanager
def _understood(row: Row) -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise Internal(f"the record of {row.kind} {row.id} is damaged: {error.errors()[0]['msg']}") from error


def as_volume(row: Row) -> Volume:
    """The volume of a row; Internal when that is damaged."""
    with _understood(row):
        return _VOLUMES.validate_json(row.body)


def as_snapshot(row: Row) -> Snapshot:
    """The snapshot of a row; Internal when that is damaged."""
    with _understood(row):
        return _SNAPSHOTS.validate_json(row.body)


def as_group(row: Row) -> SnapshotGroup:
    """The group of a row; Internal when that is damaged."""
    with _understood(row):
        return _GROUPS.validate_json(row.body)


def volume_row(volume: Volume) -> Row:
    """A row that is ready."""
    return Row(VOLUME, volume.volume_id, True, "", _VOLUMES.dump_json(volume))


def snapshot_row(snapshot: Snapshot) -> Row:
    """A row that is ready."""
    return Row(SNAPSHOT, snapshot.snapshot_id, True, snapshot.group_id, _SNAPSHOTS.dump_json(snapshot))


def group_row(group: SnapshotGroup) -> Row:
    """A row that is ready."""
    return Row(GROUP, group.group_id, True, "", _GROUPS.dump_json(group))
