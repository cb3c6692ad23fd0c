"""The publish context: what ControllerPublish tells NodeStage freshly at every attach.

It repeats the target and the connection parameters, because a PersistentVolume's VolumeContext can never
be changed: an address that moved, or a parameter set by ControllerModifyVolume, reaches the node here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from rds_csi.errors import InvalidArgument
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.parameters import MKFS_OPTIONS_KEY
from rds_csi.model.sizes import INT64_MAX
from rds_csi.model.targets import Target, target_from_context

ATTACHMENT_KEY = "attachment"
SIZE_KEY = "size"


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
            mkfs_options=tuple(merged.get(MKFS_OPTIONS_KEY, "").split()),
        )
