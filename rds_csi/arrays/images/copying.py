"""Filling images with the content of others: by reflink where the filesystem can, else by a sparse copy.

What a copy holds is what a power cut at that moment would have left of the source (crash consistent). One
reflink is one moment by itself. A copy takes time, and so do the reflinks of several sources, one after the
other: they count only if no source was written meanwhile. Every write moves the image's mtime, those through a
loop device or nvmet too. What was overtaken is made anew, a few times, and then refused, rather than kept as a
mixture of two moments.
"""

import errno
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rds_csi.arrays.images import kernel
from rds_csi.atomic import sync_directory
from rds_csi.errors import Unavailable
from rds_csi.model.sizes import KIB, MIB

# Data copied between two looks at the deadline and the log.
STEP_BYTES = 64 * MIB
_BLOCK_BYTES = MIB
# Blocks of zeros of this size become holes.
_HOLE_BYTES = 64 * KIB
_ZEROS = bytes(_HOLE_BYTES)

# How often a copy that the source's writers overtook is made anew.
_PASSES = 4
# The kernel stamps files with a clock that ticks every 1 to 10 ms (CONFIG_HZ): a write this shortly (ns) after
# the last one may leave mtime as it is.
_TICK_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a copy is, in bytes of the source."""

    done: int
    total: int


Steps = Generator[Progress, None, None]

# Brings what was written to an image through other doors (a loop device) into its file.
Flush = Callable[[str], None]

# Makes the second file share what the first one holds (descriptors); False where that cannot be done.
Reflink = Callable[[int, int], bool]


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make. ``allocate(descriptor, size)`` gives it its room; ``source`` is "" for an empty one."""

    destination: str
    size: int
    allocate: Callable[[int, int], None]
    source: str = ""
    source_size: int = 0
    may_share: bool = True


def make_images(jobs: Sequence[Job], flush: Flush, reflink: Reflink = kernel.reflink) -> Steps:
    """Make all images, those with sources at one moment, and make them survive a power cut. Blocking; yields
    after every STEP_BYTES of copied data.

    OSError and what ``allocate`` raises: what was made is left for the caller to remove. Unavailable when a
    source is shorter than recorded, or one is written all the time while it must not be.
    """
    with ExitStack() as stack:
        opened = [_Opened(job, stack, reflink) for job in jobs]
        yield from _make_at_one_moment(opened, flush)
        for item in opened:
            os.fsync(item.descriptor)
    for directory in {os.path.dirname(job.destination) for job in jobs}:
        sync_directory(directory)


def _make_at_one_moment(items: Sequence["_Opened"], flush: Flush) -> Steps:
    total = sum(item.length for item in items)
    for _ in range(_PASSES):
        for item in items:
            if item.job.source:
                flush(item.job.source)
        if len(items) == 1 and items[0].share():
            return
        marks = [item.mark() for item in items]
        # Nothing comes between these, so that the moment in which nobody may write is short.
        remaining = [item for item in items if not item.share()]
        for item in remaining:
            yield from item.copy(total)
        if all(item.is_untouched_since(mark) for item, mark in zip(items, marks, strict=True)):
            return
    sources = ", ".join(item.job.source for item in items if item.job.source)
    raise Unavailable(
        f"{sources} was written to during each of {_PASSES} attempts to copy it",
        remedy="Pause what writes to the volumes; on xfs or btrfs a single one is copied in no time.",
    )


class _Opened:
    """A job with its files open: deleting the source meanwhile does no harm."""

    def __init__(self, job: Job, stack: ExitStack, reflink: Reflink) -> None:
        self.job = job
        self._reflink = reflink
        self.length = 0
        self._source: int | None = None
        if job.source:
            self._source = os.open(job.source, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, self._source)
            self.length = job.source_size
            if os.fstat(self._source).st_size < self.length:
                raise Unavailable(f"{job.source} is shorter than its record says ({self.length} bytes)")
        self.descriptor = os.open(job.destination, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, self.descriptor)

    def share(self) -> bool:
        """Make the image by reflink, if that can be done."""
        if self._source is None or not self.job.may_share or not self._reflink(self._source, self.descriptor):
            return False
        self.job.allocate(self.descriptor, self.job.size)
        return True

    def mark(self) -> tuple[int, int]:
        """When the source was last written, and now; both in ns since the epoch. Waits for the end of a tick."""
        if self._source is None:
            return 0, 0
        if abs(time.time_ns() - os.fstat(self._source).st_mtime_ns) <= _TICK_NS:
            time.sleep(_TICK_NS / 1e9)
        return os.fstat(self._source).st_mtime_ns, time.time_ns()

    def is_untouched_since(self, mark: tuple[int, int]) -> bool:
        """Whether the source was surely not written since ``mark``."""
        if self._source is None:
            return True
        written, looked = mark
        return os.fstat(self._source).st_mtime_ns == written and abs(looked - written) > _TICK_NS

    def copy(self, total: int) -> Steps:
        """Make the image by copying what is not a hole."""
        os.ftruncate(self.descriptor, 0)
        self.job.allocate(self.descriptor, self.job.size)
        if self._source is None:
            return
        copied = 0
        for start, end in _data_ranges(self._source, self.length):
            for position in range(start, end, _BLOCK_BYTES):
                block = os.pread(self._source, min(_BLOCK_BYTES, end - position), position)
                _write_data(self.descriptor, block, position)
                copied += len(block)
                if copied >= STEP_BYTES:
                    # Written back step by step, so that no last fsync takes minutes.
                    os.fdatasync(self.descriptor)
                    copied = 0
                    yield Progress(position + len(block), total)


def _data_ranges(descriptor: int, length: int) -> Generator[tuple[int, int], None, None]:
    """The parts of a file that are not holes: (start, end) in bytes (lseek(2), SEEK_DATA)."""
    position = 0
    while position < length:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if start >= length:
            return
        position = min(os.lseek(descriptor, start, os.SEEK_HOLE), length)
        yield start, position


def _write_data(descriptor: int, block: bytes, position: int) -> None:
    """Write a block into a fresh file, leaving out what is zero there already."""
    view = memoryview(block)
    for offset in range(0, len(view), _HOLE_BYTES):
        part = view[offset : offset + _HOLE_BYTES]
        if part != _ZEROS[: len(part)]:
            _write_all(descriptor, part, position + offset)


def _write_all(descriptor: int, part: memoryview, position: int) -> None:
    """pwrite(2) may write less than it was given."""
    while part:
        written = os.pwrite(descriptor, part, position)
        part, position = part[written:], position + written
