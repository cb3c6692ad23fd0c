"""Growing a mounted filesystem to the size of its device. One that has it already starts no program."""

import fcntl
import os
import struct

from rds_csi.errors import DriverError, FailedPrecondition, InvalidArgument, Unavailable
from rds_csi.filesystem.superblock import Superblock, read_mounted_ext, read_superblocks
from rds_csi.model.devices import Device
from rds_csi.model.oserrors import as_driver_error
from rds_csi.model.sizes import MIB
from rds_csi.process import Completed, Runner
from rds_csi.tasks import finish
from rds_csi.workers import Workers

# ext4 writes new group descriptors, a few thousand a TiB.
_GROW_SECONDS = 600.0
_LOOK_SECONDS = 30.0

# Volumes grow by this at least; less is what a filesystem cannot use: a part of a block, an allocation group of
# xfs below its minimum of 64 blocks.
_FILLED_BYTES = MIB
# After growing this much may stay unused: a last block group of ext4 that could hold only its own tables.
_UNUSED_TAIL_BYTES = 16 * MIB

# xfs_fs.h: XFS_IOC_FSGEOMETRY_V1, _IOR('X', 100, struct xfs_fsop_geom_v1) of 112 bytes: blocksize is the first
# 32-bit field, datablocks the 64-bit field at byte 32.
_XFS_IOC_FSGEOMETRY_V1 = 0x80705864
_XFS_GEOMETRY_BYTES = 112

_EXT = frozenset({"ext2", "ext3", "ext4"})


async def grow(runner: Runner, workers: Workers, device: Device, path: str, fs_type: str) -> None:
    """The filesystem of ``device`` mounted at ``path`` uses the whole device. Runs to its end when cancelled."""
    if fs_type not in _EXT | {"xfs", "btrfs"}:
        raise InvalidArgument(f"filesystem {fs_type[:32]!r} cannot be grown by this driver")
    await finish(_grow(runner, workers, device, path, fs_type))


async def _grow(runner: Runner, workers: Workers, device: Device, path: str, fs_type: str) -> None:
    before = await _extent(workers, device, path, fs_type)
    if device.size - before.size < max(before.smallest_growth, _FILLED_BYTES):
        return
    completed = await runner.run_to_end(*_command(device, path, fs_type), timeout=_GROW_SECONDS)
    if completed.returncode:
        raise _error(completed, device, path)
    after = await _extent(workers, device, path, fs_type)
    if device.size - after.size >= _UNUSED_TAIL_BYTES:
        raise Unavailable(f"{completed.argv[0]} ended well, but {path} has {after.size} bytes of {device.size}")


def _command(device: Device, path: str, fs_type: str) -> tuple[str, ...]:
    if fs_type == "xfs":
        return ("xfs_growfs", "-d", path)
    if fs_type == "btrfs":
        return ("btrfs", "filesystem", "resize", "max", path)
    return ("resize2fs", device.path)


async def _extent(workers: Workers, device: Device, path: str, fs_type: str) -> Superblock:
    """How much of ``device`` the mounted filesystem uses, and with how much more it could begin something."""

    def look() -> Superblock:
        if fs_type == "xfs":
            return Superblock("xfs", "", _xfs_size(path))
        # btrfs has written its own when the resize comes back.
        found = read_mounted_ext(device) if fs_type in _EXT else read_superblocks(device)
        if len(found) != 1 or (found[0].fs_type != fs_type and not {found[0].fs_type, fs_type} <= _EXT):
            raise Unavailable(f"{device.path} shows no {fs_type} superblock any more")
        return found[0]

    return await workers.run(look, timeout=_LOOK_SECONDS, key=f"size of {path}")


def _xfs_size(path: str) -> int:
    """Asked of the mounted filesystem: on the disk, its superblock is older than its log."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            geometry = fcntl.ioctl(descriptor, _XFS_IOC_FSGEOMETRY_V1, bytes(_XFS_GEOMETRY_BYTES))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise as_driver_error(f"{path} does not tell its size", error) from error
    block_size, blocks = struct.unpack_from("=I28xQ", geometry)
    return int(block_size) * int(blocks)


def _error(completed: Completed, device: Device, path: str) -> DriverError:
    text = f"{completed.argv[0]} cannot grow {path} to {device.size} bytes: {completed.last_line}"
    if "Permission denied to resize" in completed.stderr + completed.stdout:
        return FailedPrecondition(
            text, remedy="ext4 grows online only with CAP_SYS_RESOURCE: run the node's container privileged."
        )
    return FailedPrecondition(
        text, remedy="A filesystem that is read-only or damaged cannot grow; look at the kernel's log of this node."
    )
