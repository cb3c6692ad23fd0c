"""What happens to a volume on the array after it was made: delete, expand, modify, validate."""

import betterproto

from rds_csi.arrays.protocol import Array
from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import InvalidArgument, OutOfRange
from rds_csi.locks import OperationLocks
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.parameters import VolumeParameters, parse_mutable
from rds_csi.services.capabilities import parse_capabilities, require_capability, why_any_unsupported
from rds_csi.services.checks import may_exist, require_volume_id
from rds_csi.services.convert import require_size_range
from rds_csi.tasks import finish


class Volumes:
    """Changes and removes volumes, one operation a volume at a time."""

    def __init__(self, array: Array, connector: Connector, locks: OperationLocks) -> None:
        self._array = array
        self._connector = connector
        self._locks = locks

    async def delete(self, request: csi.DeleteVolumeRequest) -> csi.DeleteVolumeResponse:
        """DeleteVolume: one that does not exist is deleted already."""
        if may_exist(request.volume_id, "volume_id"):
            with self._locks.hold("DeleteVolume", request.volume_id):
                await finish(self._array.delete_volume(request.volume_id))
        return csi.DeleteVolumeResponse()

    async def expand(self, request: csi.ControllerExpandVolumeRequest) -> csi.ControllerExpandVolumeResponse:
        """ControllerExpandVolume: never shrinks; a volume that is large enough stays as it is.

        The node has its part for block volumes too: its kernel must see the new size.
        """
        volume_id = require_volume_id(request.volume_id)
        sizes = require_size_range(request.capacity_range)
        if betterproto.serialized_on_wire(request.volume_capability):
            require_capability(request.volume_capability)
        with self._locks.hold("ControllerExpandVolume", volume_id):
            volume = await self._array.get_volume(volume_id)
            size = volume.size
            if size < sizes.required:
                traits = self._array.traits
                size = sizes.choose(granularity=traits.granularity, maximum=traits.maximum_volume_size)
            # Also when the size is there already: an earlier call may have failed between growth and export.
            volume = await finish(self._array.expand_volume(volume_id, size))
        if not sizes.admits(volume.size):
            raise OutOfRange(
                f"volume {volume_id} has {volume.size} bytes: not within "
                f"{sizes.required} to {sizes.limit or 'any number of'} bytes, and volumes never shrink"
            )
        return csi.ControllerExpandVolumeResponse(capacity_bytes=volume.size, node_expansion_required=True)

    async def modify(self, request: csi.ControllerModifyVolumeRequest) -> csi.ControllerModifyVolumeResponse:
        """ControllerModifyVolume: the named connection parameters change at the next publish, the others stay."""
        volume_id = require_volume_id(request.volume_id)
        chosen = parse_mutable(request.mutable_parameters)
        with self._locks.hold("ControllerModifyVolume", volume_id):
            volume = await self._array.get_volume(volume_id)
            merged = {**volume.mutable_parameters, **chosen}
            self._connector.volume_context(volume.target, ConnectionConfig.from_context(merged))
            if merged != dict(volume.mutable_parameters):
                await finish(self._array.modify_volume(volume_id, merged))
        return csi.ControllerModifyVolumeResponse()

    async def validate(self, request: csi.ValidateVolumeCapabilitiesRequest) -> csi.ValidateVolumeCapabilitiesResponse:
        """ValidateVolumeCapabilities: confirms all that was asked, or says in words what is not so."""
        volume_id = require_volume_id(request.volume_id)
        capabilities = parse_capabilities(request.volume_capabilities)
        await self._array.get_volume(volume_id)
        reason = why_any_unsupported(capabilities) or self._why_invalid(request)
        if reason:
            return csi.ValidateVolumeCapabilitiesResponse(message=reason)
        confirmed = csi.ValidateVolumeCapabilitiesResponseConfirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
            mutable_parameters=request.mutable_parameters,
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    def _why_invalid(self, request: csi.ValidateVolumeCapabilitiesRequest) -> str:
        try:
            VolumeParameters.parse(request.parameters)
            parse_mutable(request.mutable_parameters)
            if request.volume_context:
                self._connector.read_context(request.volume_context)
        except InvalidArgument as error:
            return str(error)
        return ""
