"""The stage record: what a node writes down about a volume that it staged."""

from dataclasses import dataclass
from enum import Enum

from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.targets import Target


class FormatState(Enum):
    """How far this node is with making the volume's filesystem."""

    UNTOUCHED = "untouched"
    # Written after the proof of blankness and before mkfs: only what our own mkfs wrote can be on the device.
    FORMATTING = "formatting"
    FORMATTED = "formatted"


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One staged volume. Everything in it can be found again in the kernel; it makes finding quick.

    ``fs_uuid`` is chosen before mkfs, so that a half-made filesystem can be told from a foreign one.
    ``attachment`` is the token of the attachment under which the record was written.
    ``boot_id`` is /proc/sys/kernel/random/boot_id of that moment.
    ``block_targets`` are the paths at which a block node may have been placed: a node is no mount, so only
    this tells where to look. What is there is read from the kernel.
    ``device_number`` ("259:3") and ``device_path`` are those of the mounted device under that boot: when the
    device has left the kernel, nothing else shows whose its dead mounts are.
    ``settled``: the mounted filesystem has grown to its device and belongs to the group that was asked for.
    """

    volume_id: str
    staging_path: str
    target: Target
    config: ConnectionConfig
    size: int
    attachment: str
    boot_id: str
    block: bool = False
    fs_type: str = ""
    fs_uuid: str = ""
    format_state: FormatState = FormatState.UNTOUCHED
    block_targets: tuple[str, ...] = ()
    settled: bool = False
    device_number: str = ""
    device_path: str = ""
