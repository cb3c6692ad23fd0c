"""What is written down about a volume and a snapshot: one JSON object a file, read strictly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from rds_csi.errors import Internal
from rds_csi.model.parameters import Provisioning
from rds_csi.model.targets import FileTarget
from rds_csi.model.volumes import Attachment, ContentSource, Snapshot, Volume


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume. ``ready`` is false before it is whole and once its deletion has begun: then it is not there for
    anybody, and may be removed."""

    id: str
    name: str
    size: int
    ready: bool
    provisioning: Provisioning = Provisioning.THIN
    source: ContentSource | None = None
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()

    def as_volume(self, image: str) -> Volume:
        """The volume as the driver wants it told."""
        return Volume(
            volume_id=self.id,
            name=self.name,
            size=self.size,
            target=FileTarget(image),
            provisioning=self.provisioning,
            source=self.source,
            mutable_parameters=self.mutable_parameters,
            attachments=self.attachments,
        )


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot; ``ready`` as for a volume."""

    id: str
    name: str
    size: int
    ready: bool
    source_volume_id: str
    created: datetime

    def as_snapshot(self) -> Snapshot:
        """The snapshot as the driver wants it told."""
        return Snapshot(self.id, self.name, self.source_volume_id, self.size, self.created)


R = TypeVar("R", VolumeRecord, SnapshotRecord)


class Codec(Generic[R]):
    """Turns one kind of record into the content of its file and back."""

    def __init__(self, kind: type[R]) -> None:
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)

    def encode(self, record: R) -> bytes:
        """The content of the record's file."""
        return self._adapter.dump_json(record, indent=1) + b"\n"

    def decode(self, data: bytes, path: str) -> R:
        """The record in the file ``path``; Internal when it is damaged: that is not the same as absent."""
        try:
            return self._adapter.validate_json(data, strict=True)
        except ValidationError as error:
            raise Internal(
                f"the record {path} is damaged: {error.errors()[0]['msg']}", remedy="Restore it from a backup."
            ) from None
