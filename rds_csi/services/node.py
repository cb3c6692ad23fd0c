"""The CSI Node service, composed of its parts."""

from collections.abc import Callable, Sequence

from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.model.paths import check_path
from rds_csi.model.volumes import HealthProblem
from rds_csi.services import topology as topologies
from rds_csi.services.checks import require_volume_id
from rds_csi.services.expanding import Expanding
from rds_csi.services.locating import Locator
from rds_csi.services.observing import Observing, Trouble, no_trouble
from rds_csi.services.publishing_node import NodePublishing
from rds_csi.services.staging import Staging
from rds_csi.services.unstaging import Unstaging
from rds_csi.services.wishes import parse_publish, parse_stage

_CAPABILITIES = (
    "STAGE_UNSTAGE_VOLUME",
    "GET_VOLUME_STATS",
    "EXPAND_VOLUME",
    "SINGLE_NODE_MULTI_WRITER",
    "VOLUME_MOUNT_GROUP",
    "GET_VOLUME_HEALTH",
    "GET_STORAGE_HEALTH",
)


class NodeService(csi.NodeBase):
    """One class for one gRPC service, as betterproto wants it; the work is done by the parts."""

    def __init__(
        self,
        node_id: str,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        *,
        locks: OperationLocks,
        max_volumes_per_node: int,
        boot_id: str,
        new_uuid: Callable[[], str],
        topology: topologies.Segments,
        trouble: Trouble = no_trouble,
    ) -> None:
        """``locks`` are this service's own, apart from the controller's; ``max_volumes_per_node`` is 0 for no
        limit; ``boot_id`` is that of the running kernel; ``new_uuid`` makes filesystem UUIDs; ``trouble`` tells
        what is being done about a target's session that is away."""
        self._node_id = node_id
        self._max_volumes_per_node = max_volumes_per_node
        self._topology = topology
        self._connector = connector
        locator = Locator(connector, filesystems, records, boot_id)
        self._staging = Staging(connector, filesystems, records, locator, locks, boot_id, new_uuid)
        self._unstaging = Unstaging(connector, filesystems, records, locator, locks)
        self._publishing = NodePublishing(filesystems, records, locator, locks)
        self._expanding = Expanding(connector, filesystems, records, locator, locks)
        self._observing = Observing(connector, filesystems, records, locator, trouble)

    async def health_problems(self, volume_id: str) -> Sequence[HealthProblem]:
        """What is wrong with a volume that is staged here; nothing when it is well, or not staged here."""
        return await self._observing.staged_problems(volume_id)

    async def node_get_capabilities(
        self,
        request: csi.NodeGetCapabilitiesRequest,  # noqa: ARG002
    ) -> csi.NodeGetCapabilitiesResponse:
        return csi.NodeGetCapabilitiesResponse(capabilities=[_capability(name) for name in _CAPABILITIES])

    async def node_get_info(self, request: csi.NodeGetInfoRequest) -> csi.NodeGetInfoResponse:  # noqa: ARG002
        response = csi.NodeGetInfoResponse(node_id=self._node_id, max_volumes_per_node=self._max_volumes_per_node)
        if self._topology:
            response.accessible_topology = csi.Topology(segments=dict(self._topology))
        return response

    async def node_stage_volume(self, request: csi.NodeStageVolumeRequest) -> csi.NodeStageVolumeResponse:
        await self._staging.stage(parse_stage(request, self._connector))
        return csi.NodeStageVolumeResponse()

    async def node_unstage_volume(self, request: csi.NodeUnstageVolumeRequest) -> csi.NodeUnstageVolumeResponse:
        volume_id = require_volume_id(request.volume_id)
        path = check_path(request.staging_target_path, "staging_target_path")
        await self._unstaging.unstage(volume_id, path)
        return csi.NodeUnstageVolumeResponse()

    async def node_publish_volume(self, request: csi.NodePublishVolumeRequest) -> csi.NodePublishVolumeResponse:
        context = {**request.volume_context, **request.publish_context}
        await self._publishing.publish(parse_publish(request), context)
        return csi.NodePublishVolumeResponse()

    async def node_unpublish_volume(self, request: csi.NodeUnpublishVolumeRequest) -> csi.NodeUnpublishVolumeResponse:
        volume_id = require_volume_id(request.volume_id)
        path = check_path(request.target_path, "target_path")
        await self._publishing.unpublish(volume_id, path)
        return csi.NodeUnpublishVolumeResponse()

    async def node_expand_volume(self, request: csi.NodeExpandVolumeRequest) -> csi.NodeExpandVolumeResponse:
        return await self._expanding.expand(request)

    async def node_get_volume_stats(self, request: csi.NodeGetVolumeStatsRequest) -> csi.NodeGetVolumeStatsResponse:
        return await self._observing.stats(request)

    async def node_get_volume_health(self, request: csi.NodeGetVolumeHealthRequest) -> csi.NodeGetVolumeHealthResponse:
        return await self._observing.volume_health(request)

    async def node_get_storage_health(
        self,
        request: csi.NodeGetStorageHealthRequest,  # noqa: ARG002
    ) -> csi.NodeGetStorageHealthResponse:
        return await self._observing.storage_health()


def _capability(name: str) -> csi.NodeServiceCapability:
    kind = csi.NodeServiceCapabilityRpcType.from_string(name)
    return csi.NodeServiceCapability(rpc=csi.NodeServiceCapabilityRpc(type=kind))
