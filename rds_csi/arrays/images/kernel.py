"""System calls on files that Python has no function for: reflink, preallocation, shared extents."""

import ctypes
import errno
import fcntl
import os
import struct

# linux/fs.h: _IOW(0x94, 9, int). ioctl_ficlone(2).
_FICLONE = 0x40049409
# What FICLONE answers where it cannot be done (ioctl_ficlone(2), ERRORS); ENOTTY from old FUSE and network ones.
_NO_REFLINK = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})

# linux/falloc.h
_FALLOC_FL_KEEP_SIZE = 0x01

# linux/fiemap.h: struct fiemap, struct fiemap_extent; linux/fs.h: _IOWR('f', 11, struct fiemap).
_FS_IOC_FIEMAP = 0xC020660B
_FIEMAP = struct.Struct("=QQLLLL")
_EXTENT = struct.Struct("=QQQQQLLLL")
_EXTENT_LAST = 0x0001
_EXTENT_SHARED = 0x2000
_EXTENTS_A_CALL = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def reflink(source: int, destination: int) -> bool:
    """Make ``destination`` share all data of ``source``, as of one moment; False where that cannot be done.

    The kernel writes the source's dirty pages back first. OSError for real faults (ENOSPC, EIO).
    """
    try:
        fcntl.ioctl(destination, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_REFLINK:
            return False
        raise
    return True


def preallocate(descriptor: int, start: int, length: int) -> None:
    """Set blocks aside for a range of a file, whose size stays (fallocate(2), FALLOC_FL_KEEP_SIZE).

    Not os.posix_fallocate: where the filesystem cannot, that one writes zeros over the whole range.
    OSError: EOPNOTSUPP where the filesystem cannot, ENOSPC when there is no room.
    """
    while _libc.fallocate(descriptor, _FALLOC_FL_KEEP_SIZE, start, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def shared_bytes(descriptor: int) -> int:
    """How many bytes of a file lie in extents that other files share; 0 where the filesystem cannot tell."""
    shared, position = 0, 0
    while True:
        buffer = bytearray(_FIEMAP.size + _EXTENTS_A_CALL * _EXTENT.size)
        _FIEMAP.pack_into(buffer, 0, position, (1 << 63) - 1 - position, 0, 0, _EXTENTS_A_CALL, 0)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_FIEMAP, buffer, True)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
                return 0
            raise
        count = _FIEMAP.unpack_from(buffer)[3]
        for index in range(count):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(buffer, _FIEMAP.size + index * _EXTENT.size)
            shared += length if flags & _EXTENT_SHARED else 0
            position = logical + length
            if flags & _EXTENT_LAST:
                return shared
        if count == 0:
            return shared
