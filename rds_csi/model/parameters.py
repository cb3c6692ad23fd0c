"""StorageClass parameters: every key that CreateVolume and ControllerModifyVolume understand."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import HOST_IFACE_KEY, OPTIONS_BY_KEY, ConnectionConfig, nearest
from rds_csi.model.mounts import check_fs_type, check_mkfs_options

# Set by the sidecars (external-provisioner --extra-create-metadata, external-snapshotter); only FS_TYPE_KEY is read.
_SIDECAR_PREFIX = "csi.storage.k8s.io/"

FS_TYPE_KEY = "csi.storage.k8s.io/fstype"
POOL_KEY = "pool"
PROVISIONING_KEY = "provisioning"
MKFS_OPTIONS_KEY = "mkfsOptions"
# The VolumeContext entry by which the filesystem of the StorageClass reaches the node.
CONTEXT_FS_TYPE_KEY = "fsType"

CONNECTION_KEYS = frozenset((*OPTIONS_BY_KEY, HOST_IFACE_KEY))
VOLUME_KEYS = frozenset({POOL_KEY, PROVISIONING_KEY, MKFS_OPTIONS_KEY})
# What ControllerModifyVolume may change: it takes effect at the next publish.
MUTABLE_KEYS = CONNECTION_KEYS

# Parameters are short; a value beyond this is a mistake or an attack.
_MAX_VALUE_BYTES = 1024


class Provisioning(Enum):
    """Whether an array sets the space of a volume aside at once."""

    THIN = "thin"
    THICK = "thick"


def _check_keys(parameters: Mapping[str, str], known: Iterable[str], what: str) -> None:
    names = sorted(known)
    for key, value in parameters.items():
        if key not in names and not key.startswith(_SIDECAR_PREFIX):
            raise InvalidArgument(
                f"unknown {what} {key[:64]!r}{nearest(key[:64], names)}; known are {', '.join(names) or 'none'}"
            )
        if len(value.encode("utf-8", "surrogatepass")) > _MAX_VALUE_BYTES:
            raise InvalidArgument(f"the value of {what} {key!r} is longer than {_MAX_VALUE_BYTES} bytes")
        if any(not character.isprintable() for character in value):
            raise InvalidArgument(f"the value of {what} {key!r} has control characters")


def parse_mutable(parameters: Mapping[str, str]) -> dict[str, str]:
    """The mutable parameters (VolumeAttributesClass), checked: their keys and values. Their combination is that with
    what the volume has already, so it is checked where both are known."""
    _check_keys(parameters, MUTABLE_KEYS, "mutable parameter")
    chosen = {key: value for key, value in parameters.items() if key in MUTABLE_KEYS}
    ConnectionConfig.check_values(chosen)
    return chosen


def check_snapshot_parameters(parameters: Mapping[str, str]) -> None:
    """A VolumeSnapshotClass has no parameters of its own yet; those of the sidecars are let through."""
    _check_keys(parameters, (), "snapshot parameter")


@dataclass(frozen=True, slots=True)
class VolumeParameters:
    """The parameters of a StorageClass, parsed once."""

    connection: ConnectionConfig = field(default_factory=ConnectionConfig)
    pool: str = ""
    provisioning: Provisioning = Provisioning.THIN
    mkfs_options: tuple[str, ...] = ()
    # "" when the StorageClass does not say; the capability of a request wins over it.
    fs_type: str = ""

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> Self:
        """From a CreateVolume or GetCapacity request; InvalidArgument names the parameter and what it may be."""
        _check_keys(parameters, CONNECTION_KEYS | VOLUME_KEYS, "parameter")
        provisioning = parameters.get(PROVISIONING_KEY, Provisioning.THIN.value)
        if provisioning not in {item.value for item in Provisioning}:
            raise InvalidArgument(
                f"parameter {PROVISIONING_KEY!r} has the value {provisioning!r}: thin or thick is needed"
            )
        return cls(
            connection=ConnectionConfig.from_context(parameters),
            pool=parameters.get(POOL_KEY, ""),
            provisioning=Provisioning(provisioning),
            mkfs_options=check_mkfs_options(parameters.get(MKFS_OPTIONS_KEY, ""), f"parameter {MKFS_OPTIONS_KEY!r}"),
            fs_type=check_fs_type(parameters.get(FS_TYPE_KEY, ""), f"parameter {FS_TYPE_KEY!r}"),
        )

    def to_context(self) -> dict[str, str]:
        """The VolumeContext entries that the node needs: connection config, mkfs options, filesystem."""
        context = self.connection.to_context()
        if self.mkfs_options:
            context[MKFS_OPTIONS_KEY] = " ".join(self.mkfs_options)
        if self.fs_type:
            context[CONTEXT_FS_TYPE_KEY] = self.fs_type
        return context
