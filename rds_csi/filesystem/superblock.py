"""The everyday probe: superblocks of ext2/3/4, xfs and btrfs, read in process without starting a program.

Sources: fs/ext4/ext4.h (struct ext4_super_block), fs/xfs/libxfs/xfs_format.h (struct xfs_dsb),
include/uapi/linux/btrfs_tree.h (struct btrfs_super_block). A checksum is not looked at: a damaged superblock is
still somebody's filesystem, and whether it can be mounted is for the kernel to say.
"""

import os
import struct
import uuid
from dataclasses import dataclass

from rds_csi.errors import Unavailable
from rds_csi.filesystem.blockdev import opened, opened_direct, read_at, size_of
from rds_csi.filesystem.protocol import Content
from rds_csi.model.devices import Device
from rds_csi.model.sizes import KIB

# The farthest superblock is btrfs's at 64 KiB; it is 4 KiB long.
HEAD_BYTES = 128 * KIB

_EXT_OFFSET = 1 * KIB
_EXT_LENGTH = 1 * KIB
_EXT_HEAD_BYTES = 4 * KIB
_EXT_MAGIC = 0xEF53
_EXT_COMPAT_HAS_JOURNAL = 0x4
_EXT_INCOMPAT_JOURNAL_DEV = 0x8
_EXT_INCOMPAT_64BIT = 0x80
# What ext3's own driver understood; anything beyond makes it ext4 (fs/ext3/ext3.h of Linux 4.2).
_EXT3_INCOMPAT = 0x2 | 0x4 | 0x10
_EXT3_RO_COMPAT = 0x1 | 0x2 | 0x4

_XFS_MAGIC = b"XFSB"
_XFS_LENGTH = 128
_BTRFS_OFFSET = 64 * KIB
_BTRFS_LENGTH = 4 * KIB
_BTRFS_MAGIC = b"_BHRfS_M"


@dataclass(frozen=True, slots=True)
class Superblock:
    """A recognised filesystem.

    ``size`` in bytes is how much of its device it uses; ``smallest_growth`` how many bytes must follow it, so that it
    can use any of them; ``complete`` is False while its mkfs has not ended.
    """

    fs_type: str
    uuid: str
    size: int
    smallest_growth: int = 1
    complete: bool = True


def recognise(head: bytes) -> tuple[Superblock, ...]:
    """Every filesystem whose superblock is in the first bytes of a device: one, none, or several for a device
    on which an older signature was left."""
    found = (_ext(head), _xfs(head), _btrfs(head))
    return tuple(superblock for superblock in found if superblock is not None)


def read_superblocks(device: Device) -> tuple[Superblock, ...]:
    """Blocking. Unavailable when the device cannot be read, or does not give its whole head."""
    with opened_direct(device) as descriptor:
        return recognise(_head(device, descriptor, HEAD_BYTES))


def read_mounted_ext(device: Device) -> tuple[Superblock, ...]:
    """Blocking, like ``read_superblocks``, of a mounted ext2/3/4: through the page cache, which has its superblock
    before the journal brings it to disk. No more than its page: with 4 KiB blocks the mount has read that already."""
    with opened(device, os.O_RDONLY) as descriptor:
        return recognise(_head(device, descriptor, _EXT_HEAD_BYTES))


def _head(device: Device, descriptor: int, length: int) -> bytes:
    expected = min(length, size_of(descriptor))
    head = read_at(descriptor, 0, length)
    if len(head) < expected or not head:
        raise Unavailable(f"{device.path} gave {len(head)} bytes of {expected}")
    return head


def identify(device: Device) -> Content:
    """Blocking. What the superblocks say; ``blank`` is never True here."""
    found = read_superblocks(device)
    if not found:
        return Content(fs_type="", uuid="", blank=False, detail="no superblock of ext2/3/4, xfs or btrfs")
    if len(found) > 1:
        names = " and ".join(superblock.fs_type for superblock in found)
        return Content(fs_type="", uuid="", blank=False, detail=f"superblocks of {names} at once")
    only = found[0]
    if not only.complete:
        # Not to be mounted: whoever began it may begin it again (its record says with which UUID).
        return Content(fs_type="", uuid="", blank=False, detail=f"{only.fs_type} {only.uuid} whose mkfs has not ended")
    return Content(fs_type=only.fs_type, uuid=only.uuid, blank=False, detail="")


def _uuid(raw: bytes) -> str:
    return str(uuid.UUID(bytes=raw))


def _ext(head: bytes) -> Superblock | None:
    block = head[_EXT_OFFSET : _EXT_OFFSET + _EXT_LENGTH]
    if len(block) < _EXT_LENGTH or struct.unpack_from("<H", block, 56)[0] != _EXT_MAGIC:
        return None
    blocks, log_block_size = struct.unpack_from("<I", block, 4)[0], struct.unpack_from("<I", block, 24)[0]
    compat, incompat, ro_compat = struct.unpack_from("<III", block, 92)
    # EXT4_MAX_BLOCK_LOG_SIZE is 16 (64 KiB), counted from 1 KiB. A journal device is not a filesystem.
    if log_block_size > 6 or incompat & _EXT_INCOMPAT_JOURNAL_DEV:
        return None
    if incompat & _EXT_INCOMPAT_64BIT:
        blocks |= struct.unpack_from("<I", block, 0x150)[0] << 32
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        fs_type = "ext4"
    else:
        fs_type = "ext3" if compat & _EXT_COMPAT_HAS_JOURNAL else "ext2"
    block_size = KIB << log_block_size
    growth = _ext_smallest_group(block, blocks, block_size) * block_size
    return Superblock(fs_type, _uuid(block[104:120]), blocks * block_size, growth)


def _ext_smallest_group(block: bytes, blocks: int, block_size: int) -> int:
    """How many blocks ext must have for one more group: its own tables and 50 more (ext2fs_initialize in
    lib/ext2fs/initialize.c). Only where the last group is full; a group that is not takes any block."""
    first_block: int
    per_group: int
    inodes_per_group: int
    first_block, per_group, inodes_per_group = struct.unpack_from("<I8xI4xI", block, 20)
    if not per_group or (blocks - first_block) % per_group:
        return 1
    inode_size = int.from_bytes(block[88:90], "little")
    reserved = int.from_bytes(block[206:208], "little")
    group = (blocks - first_block) // per_group
    overhead = 2 + inodes_per_group * inode_size // block_size
    if _has_superblock(group):
        # A copy of the superblock, the group descriptors (of 64 bytes at most), and room for more of them.
        overhead += 1 + -(-(group + 1) * 64 // block_size) + reserved
    return overhead + 50


def _has_superblock(group: int) -> bool:
    """Whether a block group has copies: 0, 1 and the powers of 3, 5 and 7 (sparse_super)."""
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return group <= 1


def _xfs(head: bytes) -> Superblock | None:
    block = head[:_XFS_LENGTH]
    if len(block) < _XFS_LENGTH or block[:4] != _XFS_MAGIC:
        return None
    block_size, blocks = struct.unpack_from(">IQ", block, 4)
    # sb_inprogress: mkfs.xfs writes the superblock first and clears this at its end.
    return Superblock("xfs", _uuid(block[32:48]), blocks * block_size, complete=not block[126])


def _btrfs(head: bytes) -> Superblock | None:
    block = head[_BTRFS_OFFSET : _BTRFS_OFFSET + _BTRFS_LENGTH]
    if len(block) < _BTRFS_LENGTH or block[0x40:0x48] != _BTRFS_MAGIC:
        return None
    # The size of this device within the filesystem (dev_item.total_bytes), not the sum of several devices.
    return Superblock("btrfs", _uuid(block[0x20:0x30]), struct.unpack_from("<Q", block, 0xD1)[0])
