"""Making, growing and deleting volumes in an image directory, so that a SIGKILL at any moment does no harm.

The record comes first and goes last: CREATING is written before the image is made and READY after it is on
the disk; a deletion renames the record (DELETING), then removes the image, then the record. So every file is
accounted for, what is CREATING was never shown to anybody and may be removed, and what is DELETING can only go
on. Growth extends the image first: an image that is larger than its record says was growing when its process
was killed, and the record follows it.
"""

import contextlib
import os
from collections.abc import Generator, Iterable
from dataclasses import replace

from rds_csi.arrays.images.catalog import Catalog
from rds_csi.arrays.images.copying import Flush, Job, Progress, make_images
from rds_csi.arrays.images.faults import FULL
from rds_csi.arrays.images.folder import VOLUMES, Folder
from rds_csi.arrays.images.records import Codec, ExportIdentity, State, VolumeRecord
from rds_csi.arrays.images.space import Allocator
from rds_csi.atomic import remove_durably
from rds_csi.errors import FailedPrecondition, NotFound, OutOfRange, Unavailable
from rds_csi.model.parameters import Provisioning
from rds_csi.model.sizes import MIB
from rds_csi.model.volumes import VolumeSpec


class VolumeFiles:
    """The volumes of a folder. Everything is blocking; calls for one volume must come one at a time."""

    def __init__(self, folder: Folder, flush: Flush) -> None:
        self._folder = folder
        self._flush = flush
        self.catalog = Catalog(
            folder.below(VOLUMES), Codec(VolumeRecord), lambda record: replace(record, state=State.DELETING)
        )
        self.allocator = Allocator(folder.below(VOLUMES), self._thick_volumes)

    def image(self, volume_id: str) -> str:
        """The path of the volume's image."""
        return self._folder.image(VOLUMES, volume_id)

    def get(self, volume_id: str) -> VolumeRecord:
        """The READY volume; NotFound when there is none."""
        record = self.catalog.ready(volume_id)
        if record is None:
            raise NotFound(f"volume {volume_id} does not exist in {self._folder.path}")
        return record

    def create(
        self, spec: VolumeSpec, source: tuple[str, int] | None, export: ExportIdentity | None
    ) -> Generator[Progress, None, VolumeRecord]:
        """Make the volume from ``source``, an image and its recorded size; one that is READY stays as it is."""
        existing = self.catalog.find(spec.volume_id)
        if existing is not None and existing.state is State.READY:
            return existing
        if source is not None and source[1] > spec.size:
            raise OutOfRange(f"volume {spec.volume_id} would be smaller than its source ({source[1]} bytes)")
        self._make_way(spec.volume_id, existing)
        record = VolumeRecord(
            id=spec.volume_id,
            name=spec.name,
            size=spec.size,
            state=State.CREATING,
            provisioning=spec.provisioning,
            source=spec.source,
            mutable_parameters=dict(spec.mutable_parameters),
            export=export,
        )
        thick = spec.provisioning is Provisioning.THICK
        job = Job(
            destination=self.image(spec.volume_id),
            size=spec.size,
            allocate=self.allocator.allocate_thick if thick else self.allocator.allocate_thin,
            source=source[0] if source else "",
            source_size=source[1] if source else 0,
            # A thick volume's blocks are its own.
            may_share=not thick,
        )
        ready = replace(record, state=State.READY)
        try:
            self.catalog.put(record)
            yield from make_images([job], self._flush)
            self.catalog.put(ready)
        except Exception:
            # If this fails as well, the record says CREATING and the repeated call begins here again.
            with contextlib.suppress(OSError):
                self.discard(spec.volume_id)
            raise
        return ready

    def retire(self, volume_id: str) -> VolumeRecord | None:
        """Begin to delete the volume: nobody finds it from now on. None when there is none.

        FailedPrecondition while it has attachments.
        """
        record = self.catalog.find(volume_id)
        if record is None or record.state is State.DELETING:
            return record
        if record.attachments:
            nodes = ", ".join(attachment.node.node_id for attachment in record.attachments)
            raise FailedPrecondition(
                f"volume {volume_id} is attached to {nodes}", remedy="Detach it (ControllerUnpublishVolume) first."
            )
        return self.catalog.retire(record)

    def discard(self, volume_id: str) -> None:
        """Remove what there is of a volume that is not READY, or never was."""
        remove_durably(self.image(volume_id))
        self.catalog.remove(volume_id)

    def expand(self, volume_id: str, size: int) -> VolumeRecord:
        """Grow to at least ``size`` bytes, rounded up to 1 MiB."""
        record = self.get(volume_id)
        size = -(-size // MIB) * MIB
        if size <= record.size:
            return record
        try:
            descriptor = os.open(self.image(volume_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unavailable(f"the image {self.image(volume_id)} of volume {volume_id} is gone") from None
        try:
            thick = record.provisioning is Provisioning.THICK
            (self.allocator.allocate_thick if thick else self.allocator.allocate_thin)(descriptor, size)
            grown = replace(record, size=size)
            try:
                os.fsync(descriptor)
                self.catalog.put(grown)
            except OSError:
                # Nobody was told of the new part, so nothing is in it.
                os.ftruncate(descriptor, record.size)
                raise
        finally:
            os.close(descriptor)
        return grown

    def update(self, record: VolumeRecord) -> VolumeRecord:
        """Write a changed copy of a READY record; on a full filesystem too, or nothing could be detached there
        any more once thin volumes have filled it."""
        try:
            self.catalog.put(record)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._folder.spend_reserve()
            self.catalog.put(record)
            self._folder.keep_reserve()
        return record

    def follow_growth(self, volume_id: str) -> None:
        """Make the record follow an image whose growth a killed process did not write down."""
        record = self.get(volume_id)
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(self.image(volume_id)).st_size
            if size > record.size and size % MIB == 0:
                # With the reserve, if need be: a filesystem that is full must not keep the driver from starting.
                self.update(replace(record, size=size))

    def _make_way(self, volume_id: str, existing: VolumeRecord | None) -> None:
        if existing is not None:
            self.discard(volume_id)
        elif os.path.lexists(self.image(volume_id)):
            raise FailedPrecondition(
                f"{self.image(volume_id)} is in the way and no record accounts for it",
                remedy="Somebody else put it there: move it away, or restore its record.",
            )

    def _thick_volumes(self) -> Iterable[tuple[str, int]]:
        return [
            (self.image(record.id), record.size)
            for record in self.catalog.all()
            if record.provisioning is Provisioning.THICK and record.state is not State.DELETING
        ]
