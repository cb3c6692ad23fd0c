"""ControllerPublish and ControllerUnpublish: which nodes the array lets in, and what they are told."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rds_csi.arrays.protocol import Array
from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import AlreadyExists, NotFound, ResourceExhausted
from rds_csi.locks import OperationLocks
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.context import publish_entries
from rds_csi.model.names import check_node_id
from rds_csi.model.volumes import Attachment, check_compatible
from rds_csi.services.capabilities import require_capability
from rds_csi.services.checks import may_exist, require_volume_id
from rds_csi.services.hosts import HostNqns
from rds_csi.services.nodes import NodeDirectory
from rds_csi.tasks import finish


class Publishing:
    """Lets nodes in to volumes and shuts them out; the attachments on the array are the only memory."""

    def __init__(
        self,
        array: Array,
        connector: Connector,
        nodes: NodeDirectory,
        locks: OperationLocks,
        max_volumes_per_node: int,
        new_uuid: Callable[[], str],
        hosts: HostNqns | None = None,
    ) -> None:
        self._array = array
        self._connector = connector
        self._nodes = nodes
        self._locks = locks
        self._max_volumes_per_node = max_volumes_per_node
        self._new_uuid = new_uuid
        self._hosts = hosts
        # (node id, volume id) of attachments that are being made: the array does not count them yet.
        self._coming: set[tuple[str, str]] = set()

    async def publish(self, request: csi.ControllerPublishVolumeRequest) -> csi.ControllerPublishVolumeResponse:
        """ControllerPublishVolume. A repeated call keeps the attachment's token, and has the array look again
        whether the node is let in: the first call may have been killed half-way."""
        volume_id = require_volume_id(request.volume_id)
        node_id = check_node_id(request.node_id)
        mode = require_capability(request.volume_capability).access_mode
        with self._locks.hold("ControllerPublishVolume", volume_id):
            volume = await self._array.get_volume(volume_id)
            node = self._nodes.lookup(node_id)
            config = ConnectionConfig.from_context({**request.volume_context, **volume.mutable_parameters})
            context = self._connector.volume_context(volume.target, config)
            known = next((item for item in volume.attachments if item.node.node_id == node_id), None)
            attachment = Attachment(node, known.token if known else self._new_uuid(), mode, request.readonly)
            if known is not None:
                _check_same(volume_id, known, attachment)
                volume = await finish(self._array.attach_volume(volume_id, attachment))
            else:
                if self._hosts is not None:
                    await self._hosts.admit(node, volume)
                check_compatible(volume_id, volume.attachments, attachment)
                with self._place(node_id, volume_id):
                    await self._check_room(node_id, volume_id)
                    volume = await finish(self._array.attach_volume(volume_id, attachment))
        entries = publish_entries(volume.size, attachment.token, readonly=attachment.readonly)
        return csi.ControllerPublishVolumeResponse(
            publish_context={**context, **_in_force(volume.mutable_parameters), **entries}
        )

    async def unpublish(self, request: csi.ControllerUnpublishVolumeRequest) -> csi.ControllerUnpublishVolumeResponse:
        """ControllerUnpublishVolume: without a node id from every node; what does not exist is unpublished."""
        node_id = check_node_id(request.node_id) if request.node_id else ""
        if may_exist(request.volume_id, "volume_id"):
            with self._locks.hold("ControllerUnpublishVolume", request.volume_id):
                try:
                    await finish(self._array.detach_volume(request.volume_id, node_id))
                except NotFound:
                    # The volume is known to be gone, and its attachments with it.
                    return csi.ControllerUnpublishVolumeResponse()
        return csi.ControllerUnpublishVolumeResponse()

    @contextmanager
    def _place(self, node_id: str, volume_id: str) -> Iterator[None]:
        """Count the attachment while it is being made: publishes of other volumes run at the same time."""
        self._coming.add((node_id, volume_id))
        try:
            yield
        finally:
            self._coming.discard((node_id, volume_id))

    async def _check_room(self, node_id: str, volume_id: str) -> None:
        if not self._max_volumes_per_node:
            return
        attached = {
            volume.volume_id
            for volume in await self._array.list_volumes()
            if any(item.node.node_id == node_id for item in volume.attachments)
        }
        coming = {other for node, other in self._coming if node == node_id}
        others = (attached | coming) - {volume_id}
        if len(others) >= self._max_volumes_per_node:
            raise ResourceExhausted(
                f"node {node_id} has {len(others)} volumes, the most that are allowed",
                remedy="Raise --max-volumes-per-node on controller and nodes, or use another node.",
            )


def _in_force(mutable: Mapping[str, str]) -> dict[str, str]:
    """The parameters that win over the VolumeContext. Told even when they are the kernel's defaults: those
    would be left out otherwise, and an older value of the VolumeContext would come back."""
    return dict(mutable)


def _check_same(volume_id: str, known: Attachment, wanted: Attachment) -> None:
    """AlreadyExists when the node has the volume in another way than asked."""
    if (known.access_mode, known.readonly) != (wanted.access_mode, wanted.readonly):
        raise AlreadyExists(
            f"volume {volume_id} is published to node {known.node.node_id} already, with access mode "
            f"{known.access_mode.value} and readonly {str(known.readonly).lower()}",
            remedy="Unpublish it first.",
        )
