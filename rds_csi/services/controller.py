"""The CSI Controller service, composed of its parts."""

import uuid
from collections.abc import Callable

from rds_csi.arrays.protocol import Array, Feature
from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import Unimplemented
from rds_csi.locks import OperationLocks
from rds_csi.services import topology as topologies
from rds_csi.services.creating import Creating
from rds_csi.services.hosts import HostNqns
from rds_csi.services.listing import Listing, NodeHealth
from rds_csi.services.nodes import NodeDirectory
from rds_csi.services.publishing import Publishing
from rds_csi.services.snapshots import Snapshots
from rds_csi.services.volumes import Volumes

# What every array can do.
_ALWAYS = (
    "CREATE_DELETE_VOLUME",
    "PUBLISH_UNPUBLISH_VOLUME",
    "LIST_VOLUMES",
    "LIST_VOLUMES_PUBLISHED_NODES",
    "GET_VOLUME",
    "PUBLISH_READONLY",
    "SINGLE_NODE_MULTI_WRITER",
    "MODIFY_VOLUME",
)
# What takes a feature of the array: without it neither advertised nor served.
_BY_FEATURE = {
    Feature.SNAPSHOTS: ("CREATE_DELETE_SNAPSHOT", "LIST_SNAPSHOTS", "GET_SNAPSHOT"),
    Feature.CLONES: ("CLONE_VOLUME",),
    Feature.EXPANSION: ("EXPAND_VOLUME",),
    Feature.CAPACITY: ("GET_CAPACITY",),
    Feature.HEALTH: ("GET_VOLUME_HEALTH", "LIST_VOLUME_HEALTH"),
}


def _new_uuid() -> str:
    return str(uuid.uuid4())


class ControllerService(csi.ControllerBase):
    """One class for one gRPC service, as betterproto wants it; the work is done by the parts."""

    def __init__(
        self,
        array: Array,
        connector: Connector,
        nodes: NodeDirectory,
        *,
        locks: OperationLocks,
        max_volumes_per_node: int,
        topology: topologies.Segments,
        new_uuid: Callable[[], str] = _new_uuid,
        hosts: HostNqns | None = None,
        node_health: NodeHealth | None = None,
    ) -> None:
        """``max_volumes_per_node`` is 0 for no limit; ``topology`` are the segments from which the array's
        volumes can be reached; ``new_uuid`` makes attachment tokens; ``hosts`` keeps nodes with one identity apart;
        ``node_health`` tells what the node of this very process says of a volume that is staged on it."""
        self._features = array.traits.features
        self._creating = Creating(array, connector, locks, topology)
        self._volumes = Volumes(array, connector, locks)
        self._publishing = Publishing(array, connector, nodes, locks, max_volumes_per_node, new_uuid, hosts)
        self._snapshots = Snapshots(array, locks, topology)
        self._listing = Listing(array, topology, node_health)

    async def controller_get_capabilities(
        self,
        request: csi.ControllerGetCapabilitiesRequest,  # noqa: ARG002
    ) -> csi.ControllerGetCapabilitiesResponse:
        names = list(_ALWAYS)
        for feature, of_feature in _BY_FEATURE.items():
            if feature in self._features:
                names += of_feature
        return csi.ControllerGetCapabilitiesResponse(capabilities=[_capability(name) for name in names])

    async def create_volume(self, request: csi.CreateVolumeRequest) -> csi.CreateVolumeResponse:
        return await self._creating.create(request)

    async def delete_volume(self, request: csi.DeleteVolumeRequest) -> csi.DeleteVolumeResponse:
        return await self._volumes.delete(request)

    async def validate_volume_capabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        return await self._volumes.validate(request)

    async def controller_modify_volume(
        self, request: csi.ControllerModifyVolumeRequest
    ) -> csi.ControllerModifyVolumeResponse:
        return await self._volumes.modify(request)

    async def controller_expand_volume(
        self, request: csi.ControllerExpandVolumeRequest
    ) -> csi.ControllerExpandVolumeResponse:
        self._require(Feature.EXPANSION, "expand volumes")
        return await self._volumes.expand(request)

    async def controller_publish_volume(
        self, request: csi.ControllerPublishVolumeRequest
    ) -> csi.ControllerPublishVolumeResponse:
        return await self._publishing.publish(request)

    async def controller_unpublish_volume(
        self, request: csi.ControllerUnpublishVolumeRequest
    ) -> csi.ControllerUnpublishVolumeResponse:
        return await self._publishing.unpublish(request)

    async def list_volumes(self, request: csi.ListVolumesRequest) -> csi.ListVolumesResponse:
        return await self._listing.volumes(request)

    async def controller_get_volume(self, request: csi.ControllerGetVolumeRequest) -> csi.ControllerGetVolumeResponse:
        return await self._listing.volume(request)

    async def get_capacity(self, request: csi.GetCapacityRequest) -> csi.GetCapacityResponse:
        self._require(Feature.CAPACITY, "tell its capacity")
        return await self._listing.capacity(request)

    async def controller_get_volume_health(
        self, request: csi.ControllerGetVolumeHealthRequest
    ) -> csi.ControllerGetVolumeHealthResponse:
        self._require(Feature.HEALTH, "tell the health of volumes")
        return await self._listing.volume_health(request)

    async def controller_list_volume_health(
        self, request: csi.ControllerListVolumeHealthRequest
    ) -> csi.ControllerListVolumeHealthResponse:
        self._require(Feature.HEALTH, "tell the health of volumes")
        return await self._listing.unhealthy_volumes(request)

    async def create_snapshot(self, request: csi.CreateSnapshotRequest) -> csi.CreateSnapshotResponse:
        self._require(Feature.SNAPSHOTS, "take snapshots")
        return await self._snapshots.create(request)

    async def delete_snapshot(self, request: csi.DeleteSnapshotRequest) -> csi.DeleteSnapshotResponse:
        self._require(Feature.SNAPSHOTS, "take snapshots")
        return await self._snapshots.delete(request)

    async def list_snapshots(self, request: csi.ListSnapshotsRequest) -> csi.ListSnapshotsResponse:
        self._require(Feature.SNAPSHOTS, "take snapshots")
        return await self._snapshots.list_all(request)

    async def get_snapshot(self, request: csi.GetSnapshotRequest) -> csi.GetSnapshotResponse:
        self._require(Feature.SNAPSHOTS, "take snapshots")
        return await self._snapshots.get(request)

    def _require(self, feature: Feature, ability: str) -> None:
        if feature not in self._features:
            raise Unimplemented(f"this array cannot {ability}")


def _capability(name: str) -> csi.ControllerServiceCapability:
    kind = csi.ControllerServiceCapabilityRpcType.from_string(name)
    return csi.ControllerServiceCapability(rpc=csi.ControllerServiceCapabilityRpc(type=kind))
