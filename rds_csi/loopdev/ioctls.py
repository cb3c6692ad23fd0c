"""The ioctls of loop devices, one method each.

Sources: loop(4); linux/loop.h (struct loop_info64, struct loop_config, LOOP_*, LO_FLAGS_*).
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_DIRECT_IO = 16
# struct loop_info64: lo_device, lo_inode, lo_flags, and what is not looked at.
_INFO = struct.Struct("=QQ36xI176x")
# struct loop_config: fd, block_size, loop_info64 up to lo_flags, lo_flags, lo_file_name, the rest, 8 reserved words.
_CONFIG = struct.Struct("=II52xI64s112x64x")
_FILE_NAME_BYTES = 63

# The device is not bound, or is going, or was removed.
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})
# Without root, or in a container without this device.
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Inode:
    """The identity of a file: st_dev and st_ino of stat(2)."""

    device: int
    number: int

    @classmethod
    def of(cls, path: str) -> "Inode | None":
        """The file at ``path``; None when there is none."""
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(status.st_dev, status.st_ino)


class LoopIoctls:
    """What the kernel does with a device node. Every method is blocking; OSError when the kernel refuses.

    Injected, so that tests on made-up trees need neither devices nor root.
    """

    def get_free(self, control: str) -> int:
        """The number of a loop device that nobody uses now; the kernel makes one when it must.

        ``control`` is the path of /dev/loop-control.
        """
        with _opened(control, os.O_RDWR) as descriptor:
            return fcntl.ioctl(descriptor, _LOOP_CTL_GET_FREE)

    def configure(self, node: str, image: int, path: str, *, direct_io: bool) -> None:
        """Bind the device to the whole of the file that is open for writing as ``image``; ``path`` is its name.

        EBUSY when somebody else has bound it. With ``direct_io`` the kernel bypasses the page cache where the
        file's filesystem allows that, and goes through it elsewhere.
        """
        flags = _LO_FLAGS_DIRECT_IO if direct_io and _takes_direct_io(path) else 0
        config = _CONFIG.pack(image, 0, flags, os.fsencode(path)[:_FILE_NAME_BYTES])
        # A device that is opened for reading alone becomes read-only.
        with _opened(node, os.O_RDWR) as descriptor:
            fcntl.ioctl(descriptor, _LOOP_CONFIGURE, config)

    def inode(self, node: str) -> Inode | None:
        """The file that the device was bound to for writing; None when there is none, or this process may not ask.

        The driver's own flag tells a device that somebody has bound for reading (``losetup -r``): "ro" in sysfs
        also tells of BLKROSET.
        """
        status = bytearray(_INFO.size)
        try:
            with _opened(node, os.O_RDONLY) as descriptor:
                fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, status)
        except OSError as error:
            if error.errno in _GONE | _FORBIDDEN:
                return None
            raise
        device, number, flags = _INFO.unpack(status)
        return None if flags & _LO_FLAGS_READ_ONLY else Inode(device, number)

    def set_capacity(self, node: str) -> None:
        """Make the device as large as its file is now."""
        with _opened(node, os.O_RDONLY) as descriptor:
            fcntl.ioctl(descriptor, _LOOP_SET_CAPACITY, 0)

    def clear(self, node: str) -> None:
        """Unbind the device; one that somebody else has open goes when the last user closes it (autoclear).

        A device that is not bound is fine.
        """
        try:
            with _opened(node, os.O_RDONLY) as descriptor:
                fcntl.ioctl(descriptor, _LOOP_CLR_FD, 0)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise

    def flush(self, node: str) -> None:
        """Bring the device's own page cache into its file. Nothing to do when it is gone or out of reach."""
        try:
            with _opened(node, os.O_RDONLY) as descriptor:
                os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _GONE | _FORBIDDEN:
                raise


def _takes_direct_io(path: str) -> bool:
    """open(2): EINVAL for O_DIRECT where the filesystem has none.

    The loop driver looks for itself, but believes an overlayfs whose upper filesystem cannot (a tmpfs before Linux
    6.6): there every read and write of the device failed with EIO.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
