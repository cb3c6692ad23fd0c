"""NodeStage and NodePublish requests, checked and put into one value object each."""

from collections.abc import Sequence
from dataclasses import dataclass

from rds_csi.connectors.protocol import Connector
from rds_csi.csi import v1 as csi
from rds_csi.errors import FailedPrecondition, InvalidArgument
from rds_csi.filesystem.flags import MOUNT_FLAGS, check_flags, reader_flags
from rds_csi.filesystem.protocol import Mount
from rds_csi.model.connection import ConnectionConfig
from rds_csi.model.context import StageContext, is_readonly
from rds_csi.model.mounts import DEFAULT_FILESYSTEM, parse_group
from rds_csi.model.paths import check_path
from rds_csi.model.targets import Target
from rds_csi.model.volumes import AccessMode
from rds_csi.services.capabilities import require_capability
from rds_csi.services.checks import require_volume_id

# Flags of a mount that mountinfo shows by the same word (fs/proc_namespace.c, mnt_opts); their opposites it
# shows by leaving them out.
_VISIBLE_FLAGS = frozenset({"nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"})


@dataclass(frozen=True, slots=True)
class StageWish:
    """How a volume is to be staged. ``fs_type`` is never "" for a mount, always "" for a block volume."""

    volume_id: str
    path: str
    target: Target
    config: ConnectionConfig
    size: int
    attachment: str
    mkfs_options: tuple[str, ...]
    block: bool
    fs_type: str
    flags: tuple[str, ...]
    read_only: bool
    # Several nodes read: not even the journal may be replayed.
    shared: bool
    group: int | None

    @property
    def mount_flags(self) -> tuple[str, ...]:
        """The flags of the mount at the staging path."""
        if not self.read_only:
            return self.flags
        return (*self.flags, *(reader_flags(self.fs_type) if self.shared else ("ro",)))


def parse_stage(request: csi.NodeStageVolumeRequest, connector: Connector) -> StageWish:
    """The request as a wish; InvalidArgument for what is missing or wrong, FailedPrecondition for an access
    that volumes of this driver do not have (CSI 1.13, NodeStageVolume errors)."""
    volume_id = require_volume_id(request.volume_id)
    path = check_path(request.staging_target_path, "staging_target_path")
    capability = require_capability(request.volume_capability, FailedPrecondition)
    context = StageContext.parse(request.volume_context, request.publish_context)
    target, config = connector.read_context({**request.volume_context, **request.publish_context})
    fs_type = "" if capability.block else capability.fs_type or context.fs_type or DEFAULT_FILESYSTEM
    check_flags(capability.mount_flags, fs_type)
    return StageWish(
        volume_id=volume_id,
        path=path,
        target=target,
        config=config,
        size=context.size,
        attachment=context.attachment,
        mkfs_options=context.mkfs_options,
        block=capability.block,
        fs_type=fs_type,
        flags=tuple(flag for flag in capability.mount_flags if flag not in ("ro", "rw")),
        read_only=context.readonly or capability.access_mode.is_read_only or "ro" in capability.mount_flags,
        shared=capability.access_mode.is_multi_node,
        group=parse_group(capability.volume_mount_group),
    )


def missing_flags(flags: Sequence[str], mount: Mount) -> list[str]:
    """The flags that a mount lacks, as far as mountinfo can tell."""
    return [flag for flag in flags if flag in _VISIBLE_FLAGS and flag not in mount.options]


@dataclass(frozen=True, slots=True)
class PublishWish:
    """How a staged volume is to be shown to a pod."""

    volume_id: str
    staging_path: str
    path: str
    block: bool
    read_only: bool
    # Only those that belong to one mount; those of the filesystem took effect when it was staged.
    flags: tuple[str, ...]
    exclusive: bool
    group: int | None


def parse_publish(request: csi.NodePublishVolumeRequest) -> PublishWish:
    """The request as a wish; errors as for ``parse_stage``, and FailedPrecondition without a staging path."""
    volume_id = require_volume_id(request.volume_id)
    path = check_path(request.target_path, "target_path")
    capability = require_capability(request.volume_capability, FailedPrecondition)
    if not request.staging_target_path:
        raise FailedPrecondition("staging_target_path is missing", remedy="Stage the volume first.")
    staging_path = check_path(request.staging_target_path, "staging_target_path")
    if path == staging_path:
        raise InvalidArgument(f"target_path is the staging path: {path!r}")
    read_only = request.readonly or capability.access_mode.is_read_only or "ro" in capability.mount_flags
    return PublishWish(
        volume_id=volume_id,
        staging_path=staging_path,
        path=path,
        block=capability.block,
        read_only=read_only or is_readonly({**request.volume_context, **request.publish_context}),
        flags=tuple(flag for flag in capability.mount_flags if flag in MOUNT_FLAGS and flag not in ("ro", "rw")),
        exclusive=capability.access_mode is AccessMode.SINGLE_NODE_SINGLE_WRITER,
        group=parse_group(capability.volume_mount_group),
    )
