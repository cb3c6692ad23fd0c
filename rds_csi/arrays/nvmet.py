"""The array ``nvmet://host:port?backing=dir``: this Linux machine as NVMe/TCP target, through configfs."""

import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.arrays.configfs import KernelConfigfs, check_part
from rds_csi.arrays.exporting import VolumeExports
from rds_csi.arrays.exports import Exports
from rds_csi.arrays.images.records import VolumeRecord
from rds_csi.arrays.images.store import ImageStore, without_node
from rds_csi.arrays.loops import LoopImageDevices
from rds_csi.arrays.portal import Port, Portal, parse_portal
from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits
from rds_csi.arrays.url import array_directory, parse_array_url
from rds_csi.errors import ConfigurationError, DriverError, FailedPrecondition, InvalidArgument
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.model.names import MAX_ID_LENGTH, check_nqn
from rds_csi.model.targets import NvmeTarget
from rds_csi.model.volumes import (
    Attachment,
    Capacity,
    Finding,
    HealthProblem,
    HealthStatus,
    Snapshot,
    SnapshotGroup,
    Volume,
    VolumeSpec,
)
from rds_csi.process import Runner
from rds_csi.tasks import finish
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

T = TypeVar("T")

_FORM = "nvmet://host:port?backing=dir"
_BACKING_KEY = "backing"
_SUBJECT = "NVMe target"

MODPROBE_SECONDS = 30.0


def open_array(url: str, options: ArrayOptions) -> "NvmetArray":
    """The array at ``url``; ConfigurationError when it cannot work."""
    parts = parse_array_url(url, form=_FORM, keys=(_BACKING_KEY,))
    if parts.path.strip("/") or _BACKING_KEY not in parts.query:
        raise ConfigurationError(
            f"the array's URL {url!r} does not name a directory as 'backing'", remedy=f"It reads {_FORM}."
        )
    portal = parse_portal(parts.host, parts.port, _FORM)
    _check_prefix(options.nqn_prefix)
    directory = array_directory(parts.query[_BACKING_KEY], _FORM)
    loops = LoopDevices(options.host)
    configfs = KernelConfigfs(os.path.join(options.host.sys, "kernel", "config", "nvmet"))
    return NvmetArray(
        ImageStore(directory, options.workers, loops.flush),
        Exports(configfs, LoopImageDevices(loops), Port(configfs, portal)),
        portal,
        nqn_prefix=options.nqn_prefix,
        runner=options.runner,
        workers=options.workers,
    )


def _check_prefix(prefix: str) -> None:
    try:
        check_part(check_nqn(prefix + "x" * MAX_ID_LENGTH, "the NQN prefix with a volume's id"))
    except InvalidArgument as error:
        raise ConfigurationError(error.message, remedy="Choose a shorter or plainer --nqn-prefix.") from None


class NvmetArray:
    """Image files, each exported as an NVMe subsystem whose hosts are those of the volume's attachments."""

    def __init__(
        self, images: ImageStore, exports: Exports, portal: Portal, *, nqn_prefix: str, runner: Runner, workers: Workers
    ) -> None:
        self._images = images
        self._exports = VolumeExports(images, exports, nqn_prefix, workers)
        self._portal = portal
        self._runner = runner

    @property
    def traits(self) -> ArrayTraits:
        return ArrayTraits(
            name=f"NVMe/TCP target at {self._portal.address} port {self._portal.port} on {self._images.directory}",
            maximum_volume_size=self._images.largest_volume,
            needs_host_nqn=True,
        )

    async def start(self) -> None:
        await self._images.open()
        await self._images.recover()
        await self._load_modules()
        try:
            await self._exports.prepare()
        except DriverError as error:
            # The array is away; every call looks again.
            _log.warning("nothing is exported yet: %s", error)

    async def close(self) -> None:
        """Exports stay: nodes work on while the controller restarts."""
        self._images.close()

    async def check(self) -> Sequence[Finding]:
        findings: list[Finding] = []
        try:
            findings += await self._images.check()
            if not self._images.is_open:
                return findings
            await self._exports.prepare()
            findings.append(Finding(_SUBJECT, True, "the kernel's NVMe target is there"))
            findings += await self._exports.repair()
        except DriverError as error:
            findings.append(Finding(_SUBJECT, False, error.message, error.remedy))
        return findings

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        return await self._alone("creating it", spec.volume_id, partial(self._create_volume, spec))

    async def delete_volume(self, volume_id: str) -> None:
        await self._alone("deleting it", volume_id, partial(self._delete_volume, volume_id))

    async def get_volume(self, volume_id: str) -> Volume:
        return self._volume(self._images.volume(volume_id))

    async def list_volumes(self) -> Sequence[Volume]:
        return [self._volume(record) for record in self._images.volumes()]

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        return await self._alone("growing it", volume_id, partial(self._expand_volume, volume_id, size))

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        with self._exports.guard.hold("modifying it", volume_id):
            return self._volume(await self._images.modify_volume(volume_id, parameters))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        check_part(check_nqn(attachment.node.host_nqn, f"the host NQN of node {attachment.node.node_id}"))
        return await self._alone("attaching it", volume_id, partial(self._attach_volume, volume_id, attachment))

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        await self._alone("detaching it", volume_id, partial(self._detach_volume, volume_id, node_id))

    async def _alone(self, operation: str, volume_id: str, step: Callable[[], Awaitable[T]]) -> T:
        """Run the step to its end while no repair touches the volume, nor anything else; Aborted when it is busy."""

        async def guarded() -> T:
            with self._exports.guard.hold(operation, volume_id):
                await self._exports.prepare()
                return await step()

        return await finish(guarded())

    async def _create_volume(self, spec: VolumeSpec) -> Volume:
        unfinished = self._images.unfinished_volume(spec.volume_id)
        if unfinished is not None:
            await self._exports.discard(unfinished)
        record = await self._images.create_volume(spec, self._exports.new_identity(spec.volume_id))
        return self._volume(await self._exports.export(record))

    async def _delete_volume(self, volume_id: str) -> None:
        record = await self._images.retire_volume(volume_id)
        if record is not None:
            await self._exports.discard(record)

    async def _expand_volume(self, volume_id: str, size: int) -> Volume:
        return self._volume(await self._exports.export(await self._images.expand_volume(volume_id, size)))

    async def _attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        self._check_host_is_of_one_node(attachment)
        # Written down first: a host that is let in is always accounted for.
        return self._volume(await self._exports.export(await self._images.attach_volume(volume_id, attachment)))

    async def _detach_volume(self, volume_id: str, node_id: str) -> None:
        record = self._images.find_volume(volume_id)
        if record is None:
            return
        # Shut out first: an attachment that is forgotten lets nobody in.
        await self._exports.admit(without_node(record, node_id))
        await self._images.detach_volume(volume_id, node_id)

    def _check_host_is_of_one_node(self, attachment: Attachment) -> None:
        """The target tells hosts apart by NQN alone: a node that is shut out comes back in under another's."""
        node = attachment.node
        for record in self._images.sound_volumes():
            for other in record.attachments:
                if other.node.host_nqn == node.host_nqn and other.node.node_id != node.node_id:
                    raise FailedPrecondition(
                        f"the nodes {node.node_id} and {other.node.node_id} have the same host NQN {node.host_nqn}",
                        remedy="Give each node an /etc/nvme/hostnqn and an /etc/nvme/hostid of its own.",
                    )

    # Snapshots

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

    # The whole

    async def capacity(self, pool: str) -> Capacity:
        return await self._images.capacity(pool)

    async def health(self, volume_id: str) -> Sequence[HealthProblem]:
        problems = [*await self._images.health(volume_id)]
        faults = await self._exports.faults(volume_id)
        return problems + [HealthProblem(HealthStatus.INACCESSIBLE, "NotExported", item) for item in faults]

    async def _load_modules(self) -> None:
        """They may be built in, or be loaded from outside of a container: whether nvmet is there is seen next."""
        try:
            loaded = await self._runner.run("modprobe", "-a", "loop", "nvmet", "nvmet-tcp", timeout=MODPROBE_SECONDS)
            if loaded.returncode != 0:
                _log.info("modprobe: %s", loaded.last_line)
        except DriverError as error:
            _log.info("modprobe: %s", error)

    def _volume(self, record: VolumeRecord) -> Volume:
        export = self._exports.identity(record)
        return Volume(
            volume_id=record.id,
            name=record.name,
            size=record.size,
            target=NvmeTarget(export.nqn, (self._portal.address,), self._portal.port, export.uuid),
            provisioning=record.provisioning,
            source=record.source,
            mutable_parameters=record.mutable_parameters,
            attachments=record.attachments,
        )
