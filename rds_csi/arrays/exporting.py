"""The exports of an image store's volumes for asyncio: made, restored after a reboot, repaired while running."""

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from rds_csi.arrays.exports import Exports
from rds_csi.arrays.images.faults import fault
from rds_csi.arrays.images.records import ExportIdentity, VolumeRecord
from rds_csi.arrays.images.store import ImageStore
from rds_csi.errors import DriverError
from rds_csi.locks import OperationLocks
from rds_csi.model.volumes import Finding
from rds_csi.tasks import finish
from rds_csi.workers import Workers

_log = logging.getLogger(__name__)

T = TypeVar("T")

# For one volume's configfs and loop device: disabling a namespace waits for the I/O that is on its way.
EXPORT_SECONDS = 60.0
# Volumes that stay broken are named one by one up to here.
_FAILURES_TOLD = 5


class VolumeExports:
    """Exports what the records say. ``guard`` is held by whoever changes a volume's record or export."""

    def __init__(self, images: ImageStore, exports: Exports, nqn_prefix: str, workers: Workers) -> None:
        self._images = images
        self._exports = exports
        self._nqn_prefix = nqn_prefix
        self._workers = workers
        self.guard = OperationLocks()
        # Exports are restored once a process, as soon as the kernel's target is there; check repairs later.
        self._restored = False
        self._restoring = asyncio.Lock()

    async def prepare(self) -> None:
        """See the kernel's target, and restore every export once. Unavailable when it is not there."""
        await self._run(self._exports.check_there, "looking at the kernel's NVMe target", "the NVMe target")
        if self._restored:
            return
        async with self._restoring:
            if not self._restored:
                await self._restore()
                self._restored = True

    async def export(self, record: VolumeRecord) -> VolumeRecord:
        """Make sure that the volume is exported to exactly the hosts of its attachments."""
        if record.export is None:
            # Made while the directory was a local array's.
            record = await self._images.set_export(record.id, self.new_identity(record.id))
        ensure = partial(self._exports.ensure, self.identity(record), self._images.image(record.id), _hosts(record))
        await self._run(ensure, f"exporting volume {record.id}", f"export of volume {record.id}")
        return record

    async def admit(self, record: VolumeRecord) -> None:
        """Let in exactly the hosts of the record's attachments, if the volume is exported at all."""
        admit = partial(self._exports.admit, self.identity(record), self._images.image(record.id), _hosts(record))
        await self._run(admit, f"detaching volume {record.id}", f"export of volume {record.id}")

    async def discard(self, record: VolumeRecord) -> None:
        """Remove the export, then the files of a volume that is not READY."""
        remove = partial(self._exports.remove, self.identity(record), self._images.image(record.id))
        await self._run(remove, f"removing the export of volume {record.id}", f"export of volume {record.id}")
        await self._images.discard_volume(record.id)

    async def faults(self, volume_id: str) -> Sequence[str]:
        """What keeps hosts from reaching the volume; NotFound when there is none."""
        look = partial(self._faults, self._images.volume(volume_id))
        what = f"looking at the export of volume {volume_id}"
        return await self._run(look, what, f"look at the export of volume {volume_id}")

    async def repair(self) -> Sequence[Finding]:
        """Export again what is not, after an address came late or somebody cleared configfs, and tell what cannot be.

        A volume that is being worked on is left for the next round.
        """
        failures: list[tuple[str, DriverError]] = []
        for volume_id in await self._run(self._broken, "looking at the exports", "the look at all exports"):
            try:
                await finish(self._repair(volume_id))
            except DriverError as error:
                failures.append((volume_id, error))
        if not failures:
            return []
        told = "; ".join(f"volume {volume_id}: {error.message}" for volume_id, error in failures[:_FAILURES_TOLD])
        more = "; …" if len(failures) > _FAILURES_TOLD else ""
        message = f"{len(failures)} volumes cannot be reached: {told}{more}"
        return [Finding("exports", False, message, failures[0][1].remedy)]

    def new_identity(self, volume_id: str) -> ExportIdentity:
        """Names for a volume that has none."""
        # Random, not derived: a volume made again under an old id must not look like the old one.
        return ExportIdentity(f"{self._nqn_prefix}{volume_id}", str(uuid.uuid4()))

    def identity(self, record: VolumeRecord) -> ExportIdentity:
        """The names of the volume."""
        return record.export or ExportIdentity(f"{self._nqn_prefix}{record.id}", "")

    async def _restore(self) -> None:
        """One volume that cannot be restored does not keep the others from it: ``repair`` tries again."""
        for record in self._images.unfinished_volumes():
            try:
                await self.discard(record)
            except DriverError as error:
                _log.warning("volume %s stays half deleted until it is deleted again: %s", record.id, error)
        for record in self._images.sound_volumes():
            try:
                await self.export(record)
            except DriverError as error:
                _log.error("volume %s is not exported: %s", record.id, error)

    async def _repair(self, volume_id: str) -> None:
        if self.guard.is_held(volume_id):
            return
        with self.guard.hold("repairing the export", volume_id):
            # Read under the guard: a host that was shut out since the look must stay outside.
            record = self._images.find_volume(volume_id)
            if record is not None:
                await self.export(record)
                _log.warning("volume %s was not exported; it is again", volume_id)

    def _broken(self) -> list[str]:
        """The ids of the volumes whose exports have faults. Blocking."""
        return [record.id for record in self._images.sound_volumes() if self._faults(record)]

    def _faults(self, record: VolumeRecord) -> list[str]:
        return self._exports.faults(self.identity(record), self._images.image(record.id))

    async def _run(self, step: Callable[[], T], what: str, key: str) -> T:
        try:
            return await self._workers.run(step, timeout=EXPORT_SECONDS, key=key)
        except OSError as error:
            raise fault(error, what) from error


def _hosts(record: VolumeRecord) -> frozenset[str]:
    return frozenset(item.node.host_nqn for item in record.attachments if item.node.host_nqn)
