"""Snapshots of single volumes."""

from rds_csi.arrays.protocol import Array
from rds_csi.csi import v1 as csi
from rds_csi.errors import AlreadyExists, InvalidArgument, NotFound
from rds_csi.locks import OperationLocks
from rds_csi.model.names import check_name, id_for_name, is_id
from rds_csi.model.parameters import check_snapshot_parameters
from rds_csi.model.volumes import Snapshot
from rds_csi.services import topology
from rds_csi.services.checks import may_exist, require_id
from rds_csi.services.convert import snapshot_message
from rds_csi.services.paging import check_max_entries, id_before, paginate
from rds_csi.tasks import finish

_SNAPSHOTS = "snapshots"


def lock_key(snapshot_id: str) -> str:
    """The key of a snapshot among the operation locks, apart from that of a volume with the same id."""
    return f"snapshot/{snapshot_id}"


class Snapshots:
    """Takes, lists and removes snapshots."""

    def __init__(self, array: Array, locks: OperationLocks, segments: topology.Segments) -> None:
        self._array = array
        self._locks = locks
        self._segments = segments

    async def create(self, request: csi.CreateSnapshotRequest) -> csi.CreateSnapshotResponse:
        """CreateSnapshot. The source volume is held too: it must not change size or go away meanwhile."""
        name = check_name(request.name, "name")
        volume_id = require_id(request.source_volume_id, "source_volume_id", "volume")
        check_snapshot_parameters(request.parameters)
        topology.check_requirement(request.accessibility_requirements, self._segments, "a new snapshot")
        snapshot_id = id_for_name(name)
        with self._locks.hold("CreateSnapshot", lock_key(snapshot_id), volume_id):
            snapshot = await finish(self._array.create_snapshot(snapshot_id, name, volume_id))
        if (snapshot.name, snapshot.source_volume_id, snapshot.group_id) != (name, volume_id, ""):
            raise AlreadyExists(
                f"snapshot {snapshot_id} exists already, of volume {snapshot.source_volume_id} "
                f"and with the name {snapshot.name!r}"
            )
        # Who asked for nothing but the array's own topology is told nothing new by it. (csi-sanity 5.6.0 compares
        # the answer with what it sent, Go's internal caches included, so that no answer at all can be equal.)
        asked = topology.names_only(request.accessibility_requirements, self._segments)
        return csi.CreateSnapshotResponse(snapshot=snapshot_message(snapshot, {} if asked else self._segments))

    async def delete(self, request: csi.DeleteSnapshotRequest) -> csi.DeleteSnapshotResponse:
        """DeleteSnapshot: one that does not exist is deleted already; one of a group goes with its group."""
        if may_exist(request.snapshot_id, "snapshot_id"):
            with self._locks.hold("DeleteSnapshot", lock_key(request.snapshot_id)):
                snapshot = await self._find(request.snapshot_id)
                if snapshot is not None and snapshot.group_id:
                    raise InvalidArgument(
                        f"snapshot {request.snapshot_id} is part of group snapshot {snapshot.group_id}",
                        remedy="Delete the group snapshot.",
                    )
                await finish(self._array.delete_snapshot(request.snapshot_id))
        return csi.DeleteSnapshotResponse()

    async def get(self, request: csi.GetSnapshotRequest) -> csi.GetSnapshotResponse:
        """GetSnapshot."""
        snapshot_id = require_id(request.snapshot_id, "snapshot_id", "snapshot")
        snapshot = await self._array.get_snapshot(snapshot_id)
        return csi.GetSnapshotResponse(snapshot=snapshot_message(snapshot, self._segments))

    async def list_all(self, request: csi.ListSnapshotsRequest) -> csi.ListSnapshotsResponse:
        """ListSnapshots, sorted by id; with both filters, what passes both."""
        # The request is checked before the array is asked.
        check_max_entries(request.max_entries)
        id_before(_SNAPSHOTS, request.starting_token)
        page, next_token = paginate(
            [item for item in await self._candidates(request.snapshot_id) if _passes(item, request)],
            lambda snapshot: snapshot.snapshot_id,
            kind=_SNAPSHOTS,
            max_entries=request.max_entries,
            token=request.starting_token,
        )
        entries = [
            csi.ListSnapshotsResponseEntry(snapshot=snapshot_message(snapshot, self._segments)) for snapshot in page
        ]
        return csi.ListSnapshotsResponse(entries=entries, next_token=next_token)

    async def _candidates(self, snapshot_id: str) -> list[Snapshot]:
        if not snapshot_id:
            return list(await self._array.list_snapshots())
        snapshot = await self._find(snapshot_id) if is_id(snapshot_id) else None
        return [snapshot] if snapshot is not None else []

    async def _find(self, snapshot_id: str) -> Snapshot | None:
        try:
            return await self._array.get_snapshot(snapshot_id)
        except NotFound:
            return None


def _passes(snapshot: Snapshot, request: csi.ListSnapshotsRequest) -> bool:
    return not request.source_volume_id or snapshot.source_volume_id == request.source_volume_id
