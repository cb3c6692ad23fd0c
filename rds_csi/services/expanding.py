"""NodeExpand: the kernel sees the volume's new size, and the filesystem grows to it, online."""

from dataclasses import replace

import betterproto

from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import FailedPrecondition, InvalidArgument, OutOfRange
from rds_csi.filesystem.protocol import Filesystems, StageRecords
from rds_csi.locks import OperationLocks
from rds_csi.model.devices import Device
from rds_csi.services.capabilities import require_capability
from rds_csi.services.checks import require_path_of_volume, require_volume_id
from rds_csi.services.convert import size_range
from rds_csi.services.locating import Located, Locator
from rds_csi.tasks import finish


class Expanding:
    """Grows what is on a device, after the array has grown the device."""

    def __init__(
        self,
        connector: Connector,
        filesystems: Filesystems,
        records: StageRecords,
        locator: Locator,
        locks: OperationLocks,
    ) -> None:
        self._connector = connector
        self._filesystems = filesystems
        self._records = records
        self._locator = locator
        self._locks = locks

    async def expand(self, request: csi.NodeExpandVolumeRequest) -> csi.NodeExpandVolumeResponse:
        """NodeExpandVolume: answers only when the filesystem has grown in truth."""
        volume_id = require_volume_id(request.volume_id)
        path = require_path_of_volume(request.volume_path, "volume_path", volume_id)
        sizes = size_range(request.capacity_range)
        with self._locks.hold("NodeExpandVolume", volume_id):
            located = await self._locator.at_path(volume_id, path)
            _check_access_type(request, located)
            device = await self._connector.rescan(located.target, sizes.required)
            if sizes.limit and device.size > sizes.limit:
                raise OutOfRange(
                    f"volume {volume_id} has {device.size} bytes, more than limit_bytes {sizes.limit}: "
                    "volumes never shrink"
                )
            await finish(self._grow(located, device))
        return csi.NodeExpandVolumeResponse(capacity_bytes=device.size)

    async def _grow(self, located: Located, device: Device) -> None:
        if located.mounts:
            # Any writable mount will do; the pod's own may be read-only while the staging path's is not.
            writable = next((mount for mount in located.mounts if not mount.read_only), None)
            if writable is None:
                raise FailedPrecondition(
                    f"the filesystem at {located.mounts[0].path} is mounted read-only, so it cannot grow",
                    remedy="Expand the volume while a pod has it writable.",
                )
            await self._filesystems.grow(device, writable.path, writable.fs_type)
        if located.record is not None and located.record.size != device.size:
            await self._records.store(replace(located.record, size=device.size))


def _check_access_type(request: csi.NodeExpandVolumeRequest, located: Located) -> None:
    """InvalidArgument when the capability, if there is one, is not how the volume is used."""
    if not betterproto.serialized_on_wire(request.volume_capability):
        return
    if require_capability(request.volume_capability).block == bool(located.mounts):
        used = "with a filesystem" if located.mounts else "as a block volume"
        raise InvalidArgument(f"volume_capability does not fit: volume {request.volume_id} is used {used}")
