"""Copies of real files: with reflinks where the filesystem under the simulator has them, else hole by hole."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

# FICLONE of linux/fs.h: makes the destination share the extents of the source (ioctl_ficlone(2)).
_FICLONE = 0x40049409
_NO_REFLINKS = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})
# Bytes asked of one copy_file_range(2): it may copy fewer.
_CHUNK = 1 << 26


def clone_file(source: Path, destination: Path) -> None:
    """Make ``destination`` a copy of ``source``: same bytes, same holes. It must not exist. Blocks; OSError."""
    with source.open("rb", buffering=0) as origin, destination.open("xb", buffering=0) as copy:
        if _reflinked(origin.fileno(), copy.fileno()):
            return
        size = os.fstat(origin.fileno()).st_size
        os.ftruncate(copy.fileno(), size)
        _copy(origin.fileno(), copy.fileno(), 0, size)


def copy_range(source: Path, destination: Path, start: int, end: int) -> None:
    """Copy the bytes ``start`` … ``end`` to the same place of ``destination``, which exists; holes stay holes.

    ``destination`` ends at ``end`` at least. Blocks; OSError.
    """
    with source.open("rb", buffering=0) as origin, destination.open("r+b", buffering=0) as copy:
        if os.fstat(copy.fileno()).st_size < end:
            os.ftruncate(copy.fileno(), end)
        _copy(origin.fileno(), copy.fileno(), start, min(end, os.fstat(origin.fileno()).st_size))


def _reflinked(origin: int, copy: int) -> bool:
    try:
        fcntl.ioctl(copy, _FICLONE, origin)
    except OSError as error:
        if error.errno in _NO_REFLINKS:
            return False
        raise
    return True


def _copy(origin: int, copy: int, position: int, end: int) -> None:
    while position < end:
        try:
            start = os.lseek(origin, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                # Nothing but a hole up to the end of the file.
                return
            raise
        stop = min(os.lseek(origin, start, os.SEEK_HOLE), end)
        position = start
        while position < stop:
            copied = os.copy_file_range(origin, copy, min(stop - position, _CHUNK), position, position)
            if not copied:
                # The file became shorter meanwhile.
                return
            position += copied


def remove_if_there(path: Path) -> None:
    """Remove a file; one that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
