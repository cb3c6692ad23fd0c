"""The publish context: what ControllerPublish tells NodeStage freshly at every attach.

It repeats the target and the connection parameters, because a PersistentVolume's VolumeContext can never
be changed: an address that moved, or a parameter set by ControllerModifyVolume, reaches the node here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.mounts import check_fs_type, check_mkfs_options
from rds_csi.model.parameters import CONTEXT_FS_TYPE_KEY, MKFS_OPTIONS_KEY
from rds_csi.model.sizes import INT64_MAX
from rds_csi.model.targets import Target, target_from_context

ATTACHMENT_KEY = "attachment"
SIZE_KEY = "size"
READONLY_KEY = "readonly"


def is_readonly(context: Mapping[str, str]) -> bool:
    """Whether the attachment was made read-only (ControllerPublishVolumeRequest.readonly)."""
    return context.get(READONLY_KEY, "false") == "true"


def publish_entries(size: int, attachment: str, *, readonly: bool) -> dict[str, str]:
    """The publish context entries besides target and connection config; ``StageContext.parse`` reads them."""
    entries = {SIZE_KEY: str(size), ATTACHMENT_KEY: attachment}
    return {**entries, READONLY_KEY: "true"} if readonly else entries


@dataclass(frozen=True, slots=True)
class StageContext:
    """All that a node needs to reach a volume: both contexts merged, the publish context winning.

    ``size`` (bytes) is 0 and ``attachment`` "" for a volume that was never published (attachRequired false).
    """

    target: Target
    config: ConnectionConfig
    size: int = 0
    attachment: str = ""
    mkfs_options: tuple[str, ...] = ()
    fs_type: str = ""
    readonly: bool = False

    @classmethod
    def parse(cls, volume_context: Mapping[str, str], publish_context: Mapping[str, str]) -> Self:
        """From a NodeStageVolume request; InvalidArgument names the entry that is wrong."""
        merged = {**volume_context, **publish_context}
        size = merged.get(SIZE_KEY, "0")
        if not (size.isascii() and size.isdecimal() and len(size) <= 19 and int(size) <= INT64_MAX):
            raise InvalidArgument(f"publish context entry {SIZE_KEY!r} is not a size in bytes: {size[:32]!r}")
        return cls(
            target=target_from_context(merged),
            config=ConnectionConfig.from_context(merged),
            size=int(size),
            attachment=merged.get(ATTACHMENT_KEY, ""),
            mkfs_options=check_mkfs_options(merged.get(MKFS_OPTIONS_KEY, ""), f"context entry {MKFS_OPTIONS_KEY!r}"),
            fs_type=check_fs_type(merged.get(CONTEXT_FS_TYPE_KEY, ""), f"context entry {CONTEXT_FS_TYPE_KEY!r}"),
            readonly=is_readonly(merged),
        )
