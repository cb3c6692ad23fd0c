"""The array ``local:///dir``: image files on this machine, reached through loop devices."""

from collections.abc import Mapping, Sequence

from rds_csi.arrays.images.records import VolumeRecord
from rds_csi.arrays.images.store import ImageStore
from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits
from rds_csi.arrays.url import array_directory, parse_array_url
from rds_csi.errors import ConfigurationError, DriverError
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.model.targets import FileTarget
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    Snapshot,
    SnapshotGroup,
    Volume,
    VolumeSpec,
)
from rds_csi.tasks import finish

_FORM = "local:///dir[?shared=yes]"
_SHARED = {"yes": True, "no": False}


def is_shared(url: str) -> bool:
    """Whether the directory of ``url`` is a filesystem that every node has at the same path; ConfigurationError
    for any other URL or value."""
    value = parse_array_url(url, form=_FORM, keys=("shared",)).query.get("shared", "no")
    if value not in _SHARED:
        raise ConfigurationError(f"shared={value} in the array's URL", remedy="It is yes or no.")
    return _SHARED[value]


def open_array(url: str, options: ArrayOptions) -> "LocalArray":
    """The array at ``url``; ConfigurationError when it cannot work."""
    parts = parse_array_url(url, form=_FORM, keys=("shared",))
    is_shared(url)
    if parts.host or parts.port:
        raise ConfigurationError(
            f"the array's URL {url!r} names a host, but image files are on this machine",
            remedy=f"It reads {_FORM}, with three slashes.",
        )
    directory = array_directory(parts.path, _FORM)
    return LocalArray(ImageStore(directory, options.workers, LoopDevices(options.host).flush))


class LocalArray:
    """Image files in a directory. An attachment is only written down: whoever reads the file is on this machine."""

    def __init__(self, images: ImageStore) -> None:
        self._images = images

    @property
    def traits(self) -> ArrayTraits:
        return ArrayTraits(
            name=f"image files in {self._images.directory}", maximum_volume_size=self._images.largest_volume
        )

    async def start(self) -> None:
        await self._images.open()
        await self._images.recover()
        for record in self._images.unfinished_volumes():
            await self._images.discard_volume(record.id)

    async def close(self) -> None:
        self._images.close()

    async def check(self) -> Sequence[Finding]:
        try:
            return await self._images.check()
        except DriverError as error:
            return [Finding("array directory", False, error.message, error.remedy)]

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        return self._volume(await self._images.create_volume(spec))

    async def delete_volume(self, volume_id: str) -> None:
        await finish(self._delete_volume(volume_id))

    async def get_volume(self, volume_id: str) -> Volume:
        return self._volume(self._images.volume(volume_id))

    async def list_volumes(self) -> Sequence[Volume]:
        return [self._volume(record) for record in self._images.volumes()]

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        return self._volume(await self._images.expand_volume(volume_id, size))

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        return self._volume(await self._images.modify_volume(volume_id, parameters))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        return self._volume(await self._images.attach_volume(volume_id, attachment))

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        await self._images.detach_volume(volume_id, node_id)

    async def create_snapshot(self, snapshot_id: str, name: str, volume_id: str) -> Snapshot:
        return await self._images.create_snapshot(snapshot_id, name, volume_id)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        await self._images.delete_snapshot(snapshot_id)

    async def get_snapshot(self, snapshot_id: str) -> Snapshot:
        return self._images.snapshot(snapshot_id)

    async def list_snapshots(self) -> Sequence[Snapshot]:
        return self._images.snapshots()

    async def create_group(self, group_id: str, name: str, volume_ids: Sequence[str]) -> SnapshotGroup:
        return await self._images.create_group(group_id, name, volume_ids)

    async def delete_group(self, group_id: str) -> None:
        await self._images.delete_group(group_id)

    async def get_group(self, group_id: str) -> SnapshotGroup:
        return self._images.group(group_id)

    async def capacity(self, pool: str) -> Capacity:
        return await self._images.capacity(pool)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        return await self._images.health(volume_id)

    async def _delete_volume(self, volume_id: str) -> None:
        if await self._images.retire_volume(volume_id) is not None:
            await self._images.discard_volume(volume_id)

    def _volume(self, record: VolumeRecord) -> Volume:
        return Volume(
            volume_id=record.id,
            name=record.name,
            size=record.size,
            target=FileTarget(self._images.image(record.id)),
            provisioning=record.provisioning,
            source=record.source,
            mutable_parameters=record.mutable_parameters,
            attachments=record.attachments,
        )
