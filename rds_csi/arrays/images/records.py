"""The records of an image directory: what is written down about volumes, snapshots and groups.

One JSON object a file, ``version`` 1. Parsed once, strictly, into frozen objects; what does not parse is an
error, never an absent record. A field is added with a default; any other change needs a new version.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from rds_csi.errors import Internal
from rds_csi.model.names import is_id
from rds_csi.model.parameters import Provisioning
from rds_csi.model.volumes import Attachment, ContentSource


class State(Enum):
    """How far a volume, snapshot or group is.

    CREATING: nobody was ever told of it; whoever finds it so may remove it. READY: whole.
    DELETING: may be half gone; the only way on is to its end.
    """

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"


class Record(Protocol):
    """What the catalog needs to know of a record."""

    @property
    def id(self) -> str:
        """The id of the volume, snapshot or group: also its file's name."""
        ...

    @property
    def state(self) -> State:
        """How far it is."""
        ...


@dataclass(frozen=True, slots=True)
class ExportIdentity:
    """The NVMe names of an exported volume: chosen when it is made, the same after every reboot."""

    nqn: str
    uuid: str


@dataclass(frozen=True, slots=True)
class VolumeRecord:
    """A volume. ``size`` in bytes is the exact size of its image."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: str
    name: str
    size: int
    state: State
    provisioning: Provisioning = Provisioning.THIN
    source: ContentSource | None = None
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    export: ExportIdentity | None = None
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        _check(self.id, self.size)


@dataclass(frozen=True, slots=True)
class SnapshotRecord:
    """A snapshot. ``size`` in bytes is the exact size of its image: that of the volume at that moment."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: str
    name: str
    source_volume_id: str
    size: int
    created: datetime
    state: State
    group_id: str = ""
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        _check(self.id, self.size)


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """A group of snapshots; it is READY only after all of them, and gone only after all of them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: str
    name: str
    snapshot_ids: tuple[str, ...]
    created: datetime
    state: State
    version: Literal[1] = 1

    def __post_init__(self) -> None:
        _check(self.id, 1)


def _check(record_id: str, size: int) -> None:
    if not is_id(record_id):
        raise ValueError(f"{record_id!r} is not an id")
    if size <= 0:
        raise ValueError(f"{size} is not a size in bytes")


R = TypeVar("R", bound=Record)


class Codec(Generic[R]):
    """Turns one kind of record into the bytes of its file and back."""

    def __init__(self, kind: type[R]) -> None:
        self._adapter: TypeAdapter[R] = TypeAdapter(kind)

    def encode(self, record: R) -> bytes:
        """The content of the record's file."""
        return self._adapter.dump_json(record, indent=1) + b"\n"

    def decode(self, data: bytes, path: str, record_id: str) -> R:
        """The record in the file ``path``; Internal, naming the file, when it is damaged."""
        try:
            record = self._adapter.validate_json(data, strict=True)
            if record.id != record_id:
                raise ValueError(f"it is the record of {record.id!r}")
        except ValueError as error:
            raise Internal(
                f"the record {path} is damaged: {_first_line(error)}",
                remedy="Restore it from a backup and restart the driver; what it describes is left alone until then.",
            ) from None
        return record


def _first_line(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}".removeprefix(": ")
    return str(error)
