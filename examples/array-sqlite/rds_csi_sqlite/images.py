"""The bytes of an image file. All of it blocks."""

import errno
import os

from rds_csi.errors import OutOfRange
from rds_csi.model.sizes import MIB


def grow(descriptor: int, size: int, *, thick: bool) -> None:
    """Make it ``size`` bytes long, with its blocks allocated where ``thick``; it is never cut."""
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, size)
    if thick:
        os.posix_fallocate(descriptor, 0, size)
    if os.fstat(descriptor).st_size < size:
        raise OutOfRange(f"the image has not become {size} bytes long")


def copy(path: str, target: int, size: int) -> None:
    """Copy what has been written of the first ``size`` bytes; holes stay holes."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        position = 0
        while position < size:
            try:
                position = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            end = min(os.lseek(source, position, os.SEEK_HOLE), size)
            while position < end:
                data = os.pread(source, min(end - position, 4 * MIB), position)
                if not data:
                    break
                position += os.pwrite(target, data, position)
    finally:
        os.close(source)
