"""Volumes, snapshots and groups as an array tells them, and capabilities as a CO asks for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from rds_csi.errors import FailedPrecondition
from rds_csi.model.parameters import Provisioning
from rds_csi.model.targets import Target


class AccessMode(Enum):
    """CSI's VolumeCapability.AccessMode.Mode, by its names."""

    SINGLE_NODE_WRITER = "SINGLE_NODE_WRITER"
    SINGLE_NODE_READER_ONLY = "SINGLE_NODE_READER_ONLY"
    MULTI_NODE_READER_ONLY = "MULTI_NODE_READER_ONLY"
    MULTI_NODE_SINGLE_WRITER = "MULTI_NODE_SINGLE_WRITER"
    MULTI_NODE_MULTI_WRITER = "MULTI_NODE_MULTI_WRITER"
    SINGLE_NODE_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"
    SINGLE_NODE_MULTI_WRITER = "SINGLE_NODE_MULTI_WRITER"

    @property
    def is_read_only(self) -> bool:
        """Whether nobody may write."""
        return self in (AccessMode.SINGLE_NODE_READER_ONLY, AccessMode.MULTI_NODE_READER_ONLY)

    @property
    def is_multi_node(self) -> bool:
        """Whether several nodes may have the volume at once."""
        return self.name.startswith("MULTI_NODE")


@dataclass(frozen=True, slots=True)
class VolumeCapability:
    """How a CO wants to use a volume: as a raw block device, or as a mounted filesystem."""

    access_mode: AccessMode
    block: bool = False
    fs_type: str = ""
    mount_flags: tuple[str, ...] = ()
    volume_mount_group: str = ""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the controller knows it: its CSI node id, and the host NQN by which arrays let it in.

    ``host_nqn`` is "" where no NVMe connector is in use.
    """

    node_id: str
    host_nqn: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One node's right to a volume, kept on the array from ControllerPublish to ControllerUnpublish.

    ``token`` is new for every attachment: what a node recorded under another token is stale.
    """

    node: Node
    token: str
    access_mode: AccessMode
    readonly: bool = False


def check_compatible(volume_id: str, others: Iterable[Attachment], wanted: Attachment) -> None:
    """FailedPrecondition, naming the node, when an attachment of another node does not go with the wanted one."""
    for other in others:
        if not wanted.access_mode.is_multi_node or other.access_mode is not wanted.access_mode:
            raise FailedPrecondition(
                f"volume {volume_id} is published to node {other.node.node_id} with access mode "
                f"{other.access_mode.value}, which does not go with {wanted.access_mode.value} on another node",
                remedy=f"Wait until it is unpublished from {other.node.node_id}.",
            )


class SourceKind(Enum):
    """What a volume's first content came from."""

    SNAPSHOT = "snapshot"
    VOLUME = "volume"


@dataclass(frozen=True, slots=True)
class ContentSource:
    """The snapshot or volume whose content a new volume starts with."""

    kind: SourceKind
    source_id: str


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What CreateVolume asks of an array. ``size`` in bytes is a multiple of the array's granularity."""

    volume_id: str
    name: str
    size: int
    provisioning: Provisioning = Provisioning.THIN
    pool: str = ""
    source: ContentSource | None = None
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the array knows it: complete, readable and exported at ``target``.

    ``mutable_parameters`` are the connection parameters that ControllerModifyVolume set; they win over those
    of the StorageClass at the next publish.
    """

    volume_id: str
    name: str
    size: int
    target: Target
    pool: str = ""
    provisioning: Provisioning = Provisioning.THIN
    source: ContentSource | None = None
    mutable_parameters: Mapping[str, str] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot. ``size`` in bytes is what a volume made from it needs at least."""

    snapshot_id: str
    name: str
    source_volume_id: str
    size: int
    created: datetime
    ready: bool = True
    group_id: str = ""


@dataclass(frozen=True, slots=True)
class SnapshotGroup:
    """Snapshots of several volumes taken at one moment."""

    group_id: str
    name: str
    snapshots: tuple[Snapshot, ...]
    created: datetime

    @property
    def ready(self) -> bool:
        """Whether every snapshot of the group can be used."""
        return all(snapshot.ready for snapshot in self.snapshots)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What an array can still give: bytes in sum, and for the smallest and largest single volume."""

    available: int
    maximum_volume_size: int
    minimum_volume_size: int


class HealthStatus(Enum):
    """CSI's VolumeHealthErrorType, by its names."""

    DEGRADED = "DEGRADED"
    INACCESSIBLE = "INACCESSIBLE"
    DATA_LOSS = "DATA_LOSS"


@dataclass(frozen=True, slots=True)
class HealthProblem:
    """One thing wrong with a volume: a CamelCase ``reason`` for machines, a ``message`` for people."""

    status: HealthStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of the machine or the array: what was looked at, whether it is well, and how to mend it."""

    subject: str
    ok: bool
    message: str
    remedy: str = ""
