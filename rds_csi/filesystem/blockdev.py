"""Opening and reading block devices: blocking functions for a worker, that trust neither names nor page cache."""

import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from rds_csi.errors import Unavailable
from rds_csi.model.devices import Device, DeviceNumber
from rds_csi.model.oserrors import as_driver_error

# linux/fs.h: _IO(0x12, 93) and _IO(0x12, 94), with a pointer to int.
_BLKROSET = 0x125D
_BLKROGET = 0x125E

# Direct I/O works in units of the logical block size, of which this is a multiple on every device in the field.
ALIGNMENT = 4096


@contextmanager
def opened(device: Device, flags: int) -> Iterator[int]:
    """A descriptor of ``device``, proven by its number: a name may have gone to another device meanwhile.

    OSErrors become errors of this driver, those of the block too; O_EXCL of a busy device stays an OSError (EBUSY).
    """
    try:
        descriptor = os.open(device.path, flags | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise
        raise Unavailable(f"{device.path} cannot be opened: {error.strerror}") from error
    try:
        number = DeviceNumber.of(os.fstat(descriptor).st_rdev)
        if number != device.number:
            raise Unavailable(f"{device.path} is now device {number}, not {device.number}")
        yield descriptor
    except OSError as error:
        raise as_driver_error(device.path, error) from error
    finally:
        os.close(descriptor)


@contextmanager
def opened_direct(device: Device) -> Iterator[int]:
    """``opened`` for reading past the page cache, which may still hold what was there before an outage."""
    try:
        # Every block device has direct I/O; a file (a made-up device) may lie on a filesystem without it.
        direct = os.O_DIRECT if stat.S_ISBLK(os.stat(device.path).st_mode) else 0
    except OSError as error:
        raise Unavailable(f"{device.path} cannot be looked at: {error.strerror}") from error
    with opened(device, os.O_RDONLY | direct) as descriptor:
        yield descriptor


def size_of(descriptor: int) -> int:
    """The size in bytes, as the kernel has it now."""
    return os.lseek(descriptor, 0, os.SEEK_END)


def read_at(descriptor: int, offset: int, length: int) -> bytes:
    """Up to ``length`` bytes from ``offset``, fewer only at the end of the device (both multiples of ALIGNMENT)."""
    # Anonymous memory is page-aligned, which O_DIRECT asks of its buffer (open(2), NOTES).
    with mmap.mmap(-1, length) as buffer, memoryview(buffer) as view:
        done = 0
        while done < length:
            with view[done:] as rest:
                count = os.preadv(descriptor, [rest], offset + done)
            done += count
            if count == 0 or count % ALIGNMENT:
                break
        return bytes(view[:done])


def is_read_only(descriptor: int) -> bool:
    """Whether the kernel lets nobody open the device for writing (BLKROGET)."""
    return bool(struct.unpack("i", fcntl.ioctl(descriptor, _BLKROGET, struct.pack("i", 0)))[0])


def set_read_only(descriptor: int, read_only: bool) -> None:
    """Forbid or allow opening the device for writing from now on (BLKROSET); open descriptors are not affected."""
    fcntl.ioctl(descriptor, _BLKROSET, struct.pack("i", int(read_only)))
