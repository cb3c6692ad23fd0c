"""Volume capabilities: read from the wire, and compared with what volumes of this driver can do."""

from collections.abc import Sequence

import betterproto

from rds_csi.csi.v1 import VolumeCapability as Message
from rds_csi.errors import DriverError, InvalidArgument
from rds_csi.filesystem.flags import check_flags
from rds_csi.model.mounts import check_fs_type, parse_group
from rds_csi.model.volumes import AccessMode, VolumeCapability

# CSI 1.13, MountVolume.mount_flags: "The total size of this repeated field SHALL NOT exceed 4 KiB".
MAX_MOUNT_FLAGS_BYTES = 4096


def parse_capability(message: Message) -> VolumeCapability:
    """The capability in a request; InvalidArgument when it is missing, incomplete or made of unknown words."""
    if not betterproto.serialized_on_wire(message):
        raise InvalidArgument("volume_capability is missing")
    access_type, _ = betterproto.which_one_of(message, "access_type")
    if not access_type:
        raise InvalidArgument("volume_capability has no access_type: block or mount is needed")
    access_mode = _access_mode(message)
    if access_type == "block":
        return VolumeCapability(access_mode, block=True)
    parse_group(message.mount.volume_mount_group)
    fs_type = check_fs_type(message.mount.fs_type, "fs_type")
    if sum(len(flag.encode("utf-8", "surrogatepass")) for flag in message.mount.mount_flags) > MAX_MOUNT_FLAGS_BYTES:
        raise InvalidArgument(f"mount_flags are longer than {MAX_MOUNT_FLAGS_BYTES} bytes in sum")
    return VolumeCapability(
        access_mode,
        fs_type=fs_type,
        mount_flags=check_flags(message.mount.mount_flags, fs_type),
        volume_mount_group=message.mount.volume_mount_group,
    )


def _access_mode(message: Message) -> AccessMode:
    # An enum value of a newer CSI has no name; UNKNOWN is the value of a mode that was left out.
    name = message.access_mode.mode.name or ""
    if name not in AccessMode.__members__:
        raise InvalidArgument(
            f"volume_capability has no access mode that this driver knows: {int(message.access_mode.mode)}"
        )
    return AccessMode[name]


def why_unsupported(capability: VolumeCapability) -> str:
    """Why no volume of this driver has ``capability``; "" when every volume has it."""
    mode = capability.access_mode
    if mode is AccessMode.MULTI_NODE_SINGLE_WRITER:
        return "access mode MULTI_NODE_SINGLE_WRITER is not supported: nothing keeps the other nodes from writing"
    if mode is AccessMode.MULTI_NODE_MULTI_WRITER and not capability.block:
        return (
            "access mode MULTI_NODE_MULTI_WRITER is supported for block volumes only: "
            "ext4, xfs and btrfs are destroyed when two nodes write to them"
        )
    return ""


def require_capability(message: Message, error: type[DriverError] = InvalidArgument) -> VolumeCapability:
    """The capability in a request, when volumes of this driver have it; otherwise ``error`` says why not."""
    capability = parse_capability(message)
    reason = why_unsupported(capability)
    if reason:
        raise error(reason)
    return capability


def parse_capabilities(messages: Sequence[Message]) -> list[VolumeCapability]:
    """All capabilities of a request, of which there must be at least one."""
    if not messages:
        raise InvalidArgument("volume_capabilities are missing")
    return [parse_capability(message) for message in messages]


def why_any_unsupported(capabilities: Sequence[VolumeCapability]) -> str:
    """The first reason of ``why_unsupported``; "" when volumes of this driver have them all."""
    return next((reason for capability in capabilities if (reason := why_unsupported(capability))), "")
