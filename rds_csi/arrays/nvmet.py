"""The array ``nvmet://host:port?backing=dir``: this Linux machine as NVMe/TCP target, through configfs."""

import asyncio
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.arrays.configfs import KernelConfigfs, check_part
from rds_csi.arrays.exports import Exports
from rds_csi.arrays.images.faults import fault
from rds_csi.arrays.images.records import ExportIdentity, VolumeRecord
from rds_csi.arrays.images.store import ImageStore, without_node
from rds_csi.arrays.loops import LoopImageDevices
from rds_csi.arrays.portal import Port, Portal, parse_portal
from rds_csi.arrays.protocol import ArrayOptions, ArrayTraits
from rds_csi.arrays.url import array_directory, parse_array_url
from rds_csi.errors import ConfigurationError, DriverError, InvalidArgument
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

# For one volume's configfs and loop device: disabling a namespace waits for the I/O that is on its way.
EXPORT_SECONDS = 60.0
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
        self._exports = exports
        self._portal = portal
        self._nqn_prefix = nqn_prefix
        self._runner = runner
        self._workers = workers
        # Exports are restored once a process, as soon as the kernel's target is there.
        self._restored = False
        self._restoring = asyncio.Lock()

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
            await self._prepare()
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
            await self._run(self._exports.check_there, "looking at the kernel's NVMe target")
            findings.append(Finding(_SUBJECT, True, "the kernel's NVMe target is there"))
        except DriverError as error:
            findings.append(Finding(_SUBJECT, False, error.message, error.remedy))
        return findings

    # Volumes

    async def create_volume(self, spec: VolumeSpec) -> Volume:
        return await finish(self._create_volume(spec))

    async def delete_volume(self, volume_id: str) -> None:
        await finish(self._delete_volume(volume_id))

    async def get_volume(self, volume_id: str) -> Volume:
        return self._volume(self._images.volume(volume_id))

    async def list_volumes(self) -> Sequence[Volume]:
        return [self._volume(record) for record in self._images.volumes()]

    async def expand_volume(self, volume_id: str, size: int) -> Volume:
        return await finish(self._expand_volume(volume_id, size))

    async def modify_volume(self, volume_id: str, parameters: Mapping[str, str]) -> Volume:
        return self._volume(await self._images.modify_volume(volume_id, parameters))

    async def attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        check_part(check_nqn(attachment.node.host_nqn, f"the host NQN of node {attachment.node.node_id}"))
        return await finish(self._attach_volume(volume_id, attachment))

    async def detach_volume(self, volume_id: str, node_id: str) -> None:
        await finish(self._detach_volume(volume_id, node_id))

    async def _create_volume(self, spec: VolumeSpec) -> Volume:
        await self._prepare()
        unfinished = self._images.unfinished_volume(spec.volume_id)
        if unfinished is not None:
            await self._discard(unfinished)
        record = await self._images.create_volume(spec, self._new_identity(spec.volume_id))
        return self._volume(await self._export(record))

    async def _delete_volume(self, volume_id: str) -> None:
        await self._prepare()
        record = await self._images.retire_volume(volume_id)
        if record is not None:
            await self._discard(record)

    async def _expand_volume(self, volume_id: str, size: int) -> Volume:
        await self._prepare()
        return self._volume(await self._export(await self._images.expand_volume(volume_id, size)))

    async def _attach_volume(self, volume_id: str, attachment: Attachment) -> Volume:
        await self._prepare()
        # Written down first: a host that is let in is always accounted for.
        return self._volume(await self._export(await self._images.attach_volume(volume_id, attachment)))

    async def _detach_volume(self, volume_id: str, node_id: str) -> None:
        await self._prepare()
        record = self._images.find_volume(volume_id)
        if record is None:
            return
        # Shut out first: an attachment that is forgotten lets nobody in.
        remaining = without_node(record, node_id)
        admit = partial(self._exports.admit, self._identity(record), _hosts(remaining))
        await self._run(admit, f"detaching volume {volume_id}", f"export of volume {volume_id}")
        await self._images.detach_volume(volume_id, node_id)

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
        look = partial(self._exports.faults, self._identity(self._images.volume(volume_id)))
        faults = await self._run(look, f"looking at the export of volume {volume_id}")
        return problems + [HealthProblem(HealthStatus.INACCESSIBLE, "NotExported", item) for item in faults]

    # Exports

    async def _load_modules(self) -> None:
        """They may be built in, or be loaded from outside of a container: whether nvmet is there is seen next."""
        try:
            loaded = await self._runner.run("modprobe", "-a", "loop", "nvmet", "nvmet-tcp", timeout=MODPROBE_SECONDS)
            if loaded.returncode != 0:
                _log.info("modprobe: %s", loaded.last_line)
        except DriverError as error:
            _log.info("modprobe: %s", error)

    async def _prepare(self) -> None:
        """See the kernel's target, and restore every export once. Unavailable when it is not there."""
        await self._run(self._exports.check_there, "looking at the kernel's NVMe target")
        if self._restored:
            return
        async with self._restoring:
            if not self._restored:
                await self._restore()
                self._restored = True

    async def _restore(self) -> None:
        """One volume that cannot be restored does not keep the others from it: its health tells, and the next
        attach tries again."""
        for record in self._images.unfinished_volumes():
            try:
                await self._discard(record)
            except DriverError as error:
                _log.warning("volume %s stays half deleted until it is deleted again: %s", record.id, error)
        for record in self._images.sound_volumes():
            try:
                await self._export(record)
            except DriverError as error:
                _log.error("volume %s is not exported: %s", record.id, error)

    async def _export(self, record: VolumeRecord) -> VolumeRecord:
        if record.export is None:
            # Made while the directory was a local array's.
            record = await self._images.set_export(record.id, self._new_identity(record.id))
        ensure = partial(self._exports.ensure, self._identity(record), self._images.image(record.id), _hosts(record))
        await self._run(ensure, f"exporting volume {record.id}", f"export of volume {record.id}")
        return record

    async def _discard(self, record: VolumeRecord) -> None:
        remove = partial(self._exports.remove, self._identity(record), self._images.image(record.id))
        await self._run(remove, f"removing the export of volume {record.id}", f"export of volume {record.id}")
        await self._images.discard_volume(record.id)

    def _new_identity(self, volume_id: str) -> ExportIdentity:
        # Random, not derived: a volume made again under an old id must not look like the old one.
        return ExportIdentity(f"{self._nqn_prefix}{volume_id}", str(uuid.uuid4()))

    def _identity(self, record: VolumeRecord) -> ExportIdentity:
        return record.export or ExportIdentity(f"{self._nqn_prefix}{record.id}", "")

    def _volume(self, record: VolumeRecord) -> Volume:
        export = self._identity(record)
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

    async def _run(self, step: Callable[[], T], what: str, key: str = "") -> T:
        try:
            return await self._workers.run(step, timeout=EXPORT_SECONDS, key=key)
        except OSError as error:
            raise fault(error, what) from error


def _hosts(record: VolumeRecord) -> frozenset[str]:
    return frozenset(item.node.host_nqn for item in record.attachments if item.node.host_nqn)
