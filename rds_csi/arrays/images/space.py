"""The room in an image directory: what is free, what is promised, how large one file may be.

Thin volumes promise nothing: they may be as large as the largest file of the filesystem, whatever is free, and
fill up as they are written. Thick volumes are preallocated, so what they hold is gone from statvfs already.
One promise is left to account for: a thick volume whose blocks a reflink snapshot or clone shares needs new
blocks when it is overwritten, so the shared bytes count as promised.
"""

import contextlib
import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterable

from rds_csi.arrays.images import kernel
from rds_csi.errors import FailedPrecondition, ResourceExhausted
from rds_csi.model.sizes import INT64_MAX, MIB

# stat(2): st_blocks counts units of 512 bytes.
_STAT_BLOCK_BYTES = 512


def free_bytes(directory: str) -> int:
    """What an unprivileged writer may still fill, in bytes (statvfs(3))."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def largest_file(directory: str) -> int:
    """The largest size in bytes, a multiple of 1 MiB, that a file of this filesystem may have.

    Found by trying: a sparse file takes no room, and no table of limits by filesystem and block size can rot.
    """
    with tempfile.TemporaryFile(dir=directory, prefix=".new-") as probe:
        fits, above = 1, INT64_MAX // MIB + 1
        while above - fits > 1:
            middle = (fits + above) // 2
            try:
                os.ftruncate(probe.fileno(), middle * MIB)
                fits = middle
            except OSError as error:
                if error.errno not in (errno.EFBIG, errno.EINVAL):
                    raise
                above = middle
    return fits * MIB


def can_reflink(directory: str) -> bool:
    """Whether files of this directory can share blocks, seen by trying."""
    with (
        tempfile.TemporaryFile(dir=directory, prefix=".new-") as source,
        tempfile.TemporaryFile(dir=directory, prefix=".new-") as copy,
    ):
        os.ftruncate(source.fileno(), MIB)
        return kernel.reflink(source.fileno(), copy.fileno())


def outstanding(path: str, size: int, shared_bytes: Callable[[int], int] = kernel.shared_bytes) -> int:
    """What the thick volume of ``size`` bytes at ``path`` may still take from the free space, in bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return size
    try:
        return _missing(descriptor, size, shared_bytes)
    finally:
        os.close(descriptor)


def _missing(descriptor: int, size: int, shared_bytes: Callable[[int], int]) -> int:
    """How many of ``size`` bytes have no block that is the file's alone."""
    own = os.fstat(descriptor).st_blocks * _STAT_BLOCK_BYTES - shared_bytes(descriptor)
    return max(0, size - max(0, own))


class Allocator:
    """Gives room to images. ``thick_volumes`` tells path and size of every thick volume, those being made too;
    ``shared_bytes(descriptor)`` how much of a file belongs to others as well."""

    def __init__(
        self,
        directory: str,
        thick_volumes: Callable[[], Iterable[tuple[str, int]]],
        shared_bytes: Callable[[int], int] = kernel.shared_bytes,
    ) -> None:
        self._shared_bytes = shared_bytes
        self._directory = directory
        self._thick_volumes = thick_volumes
        # One at a time, so that two volumes are not given the same free space.
        self._guard = threading.Lock()

    def available(self) -> int:
        """Free bytes that are promised to nobody. Blocking."""
        return max(0, free_bytes(self._directory) - self._promised(self._thick_volumes()))

    def allocate_thin(self, descriptor: int, size: int) -> None:
        """Give the file its size; its blocks come when it is written. EFBIG when no file may be so large."""
        os.ftruncate(descriptor, size)

    def allocate_thick(self, descriptor: int, size: int) -> None:
        """Give the file its size and all its blocks; blocks and size stay as they were when that fails.

        ResourceExhausted when there is no room that is not promised to another volume.
        """
        status = os.fstat(descriptor)
        with self._guard:
            missing = _missing(descriptor, size, self._shared_bytes)
            others = self._promised(self._others(status))
            free = free_bytes(self._directory)
            if missing > free - others:
                raise ResourceExhausted(
                    f"{missing} bytes are not free in {self._directory}: {free} bytes, of which {others} are promised",
                    remedy="Free some space, or make the volume thin.",
                )
            try:
                kernel.preallocate(descriptor, 0, size)
            except OSError as error:
                # What was preallocated beyond the end goes with a truncation to the old size.
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, status.st_size)
                if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise FailedPrecondition(
                        f"the filesystem of {self._directory} cannot set space aside for thick volumes",
                        remedy="Make the volume thin, or put the array on ext4, xfs or btrfs.",
                    ) from None
                raise
        os.ftruncate(descriptor, size)

    def _promised(self, volumes: Iterable[tuple[str, int]]) -> int:
        return sum(outstanding(path, size, self._shared_bytes) for path, size in volumes)

    def _others(self, mine: os.stat_result) -> Iterable[tuple[str, int]]:
        for path, size in self._thick_volumes():
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), mine):
                    continue
            yield path, size
