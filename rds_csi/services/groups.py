"""The CSI GroupController service: snapshots of several volumes at one moment."""

from collections.abc import Sequence

from rds_csi.arrays.protocol import Array
from rds_csi.csi import v1 as csi
from rds_csi.errors import AlreadyExists, InvalidArgument, NotFound
from rds_csi.locks import OperationLocks
from rds_csi.model.names import check_name, id_for_name
from rds_csi.model.parameters import check_snapshot_parameters
from rds_csi.model.volumes import SnapshotGroup
from rds_csi.services import topology as topologies
from rds_csi.services.checks import may_exist, require_id
from rds_csi.services.convert import group_message
from rds_csi.tasks import finish

# More volumes than any pod has; a list beyond this is a mistake or an attack.
_MAX_VOLUMES = 256


class GroupControllerService(csi.GroupControllerBase):
    """Group snapshots, for an array with ``Feature.GROUP_SNAPSHOTS``."""

    def __init__(self, array: Array, *, locks: OperationLocks, topology: topologies.Segments) -> None:
        """``locks`` are those of the controller service: both work on the same volumes."""
        self._array = array
        self._locks = locks
        self._segments = topology

    async def group_controller_get_capabilities(
        self,
        request: csi.GroupControllerGetCapabilitiesRequest,  # noqa: ARG002
    ) -> csi.GroupControllerGetCapabilitiesResponse:
        kind = csi.GroupControllerServiceCapabilityRpcType.from_string("CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT")
        rpc = csi.GroupControllerServiceCapabilityRpc(type=kind)
        return csi.GroupControllerGetCapabilitiesResponse(capabilities=[csi.GroupControllerServiceCapability(rpc=rpc)])

    async def create_volume_group_snapshot(
        self, request: csi.CreateVolumeGroupSnapshotRequest
    ) -> csi.CreateVolumeGroupSnapshotResponse:
        name = check_name(request.name, "name")
        volume_ids = _check_volume_ids(request.source_volume_ids)
        check_snapshot_parameters(request.parameters)
        group_id = id_for_name(name)
        with self._locks.hold("CreateVolumeGroupSnapshot", _lock_key(group_id), *volume_ids):
            group = await finish(self._array.create_group(group_id, name, volume_ids))
        sources = sorted(snapshot.source_volume_id for snapshot in group.snapshots)
        if group.name != name or sources != sorted(volume_ids):
            raise AlreadyExists(
                f"group snapshot {group_id} exists already, with the name {group.name!r} "
                f"and of the volumes {', '.join(sources)}"
            )
        return csi.CreateVolumeGroupSnapshotResponse(group_snapshot=group_message(group, self._segments))

    async def delete_volume_group_snapshot(
        self, request: csi.DeleteVolumeGroupSnapshotRequest
    ) -> csi.DeleteVolumeGroupSnapshotResponse:
        """One that does not exist is deleted already."""
        group_id = request.group_snapshot_id
        if may_exist(group_id, "group_snapshot_id"):
            with self._locks.hold("DeleteVolumeGroupSnapshot", _lock_key(group_id)):
                try:
                    group = await self._array.get_group(group_id)
                except NotFound:
                    # Absent, or a deletion that stopped half-way: the array knows, and goes on with it.
                    group = None
                if group is not None:
                    await self._check_snapshot_ids(group, request.snapshot_ids)
                await finish(self._array.delete_group(group_id))
        return csi.DeleteVolumeGroupSnapshotResponse()

    async def get_volume_group_snapshot(
        self, request: csi.GetVolumeGroupSnapshotRequest
    ) -> csi.GetVolumeGroupSnapshotResponse:
        group_id = require_id(request.group_snapshot_id, "group_snapshot_id", "group snapshot")
        group = await self._array.get_group(group_id)
        await self._check_snapshot_ids(group, request.snapshot_ids)
        return csi.GetVolumeGroupSnapshotResponse(group_snapshot=group_message(group, self._segments))

    async def _check_snapshot_ids(self, group: SnapshotGroup, snapshot_ids: Sequence[str]) -> None:
        """InvalidArgument when the list, if there is one, is not that of the group.

        A snapshot that is listed and exists no more does not count: a deletion that was killed half-way must
        be able to go on.
        """
        if not snapshot_ids:
            return
        members = {snapshot.snapshot_id for snapshot in group.snapshots}
        listed = set(snapshot_ids)
        missing = members - listed
        extra = sorted(listed - members)[:_MAX_VOLUMES]
        foreign = [snapshot_id for snapshot_id in extra if await self._snapshot_exists(snapshot_id)]
        if missing or foreign:
            raise InvalidArgument(
                f"snapshot_ids do not fit group snapshot {group.group_id}: "
                f"missing are {sorted(missing)}, not in the group are {foreign}"
            )

    async def _snapshot_exists(self, snapshot_id: str) -> bool:
        if not may_exist(snapshot_id, "snapshot_ids"):
            return False
        try:
            await self._array.get_snapshot(snapshot_id)
        except NotFound:
            return False
        return True


def _lock_key(group_id: str) -> str:
    return f"group/{group_id}"


def _check_volume_ids(volume_ids: Sequence[str]) -> list[str]:
    if not volume_ids:
        raise InvalidArgument("source_volume_ids are missing")
    if len(volume_ids) > _MAX_VOLUMES:
        raise InvalidArgument(
            f"source_volume_ids are {len(volume_ids)}: at most {_MAX_VOLUMES} are snapshotted at once"
        )
    if len(set(volume_ids)) != len(volume_ids):
        raise InvalidArgument("source_volume_ids names a volume twice")
    return [require_id(volume_id, "source_volume_ids", "volume") for volume_id in volume_ids]
