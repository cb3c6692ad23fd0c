"""Images and records as files, so that a process may be killed between any two steps.

A record comes before its image and goes after it. It says ``ready`` only while the image is whole. So what is not
ready was never told to anybody, or is being deleted: the repeated call removes it and begins again. An image without
a record is somebody else's.

Everything in here blocks: it is called in a worker.
"""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic

from rds_csi.atomic import remove_durably, remove_leftovers, sync_directory, write_atomically
from rds_csi.errors import (
    Aborted,
    DriverError,
    FailedPrecondition,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    Unavailable,
)
from rds_csi_directory.records import Codec, R

_RECORD = ".json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
# A file that is given up when a record must be written and nothing is left: some blocks for small files.
_RESERVE = ".reserve"
_LOCK = ".lock"
_RESERVE_BYTES = 64 << 10


def as_driver_error(error: OSError, what: str) -> DriverError:
    """What an error of the filesystem means. What is not known is Unavailable, never NotFound."""
    message = f"{what}: {error.strerror} ({error.filename or 'no file'})"
    if error.errno in _FULL:
        return ResourceExhausted(message, remedy="Free some space in the array's directory.")
    if error.errno == errno.EFBIG:
        return OutOfRange(message)
    return Unavailable(message, remedy="Look whether the array's directory is mounted and can be written.")


class Lock:
    """One process at a time works in a directory (flock(2)). However that process ends, the lock goes with it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._descriptor: int | None = None

    def take(self) -> None:
        """FailedPrecondition when another process has it."""
        descriptor = os.open(os.path.join(self._directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FailedPrecondition(
                f"the directory {self._directory} is in use by another process", remedy="Stop the other one first."
            ) from None
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process have it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Shelf(Generic[R]):
    """One directory with images and their records: the volumes, or the snapshots."""

    def __init__(self, directory: str, kind: type[R], what: str) -> None:
        """``what`` is how errors call one of them."""
        self.directory = directory
        self._codec: Codec[R] = Codec(kind)
        self._what = what

    def image(self, item_id: str) -> str:
        """The path of an image."""
        return os.path.join(self.directory, f"{item_id}.img")

    def find(self, item_id: str) -> R | None:
        """The record, also of what is not ready; None when there is none."""
        path = self._record(item_id)
        try:
            with open(path, "rb") as stream:
                return self._codec.decode(stream.read(), path)
        except FileNotFoundError:
            # Only a directory that is there can say that something is not in it.
            os.stat(self.directory)
            return None

    def get(self, item_id: str) -> R:
        """The record of what is ready; NotFound when there is none."""
        record = self.find(item_id)
        if record is None or not record.ready:
            raise NotFound(f"{self._what} {item_id} does not exist in {self.directory}")
        return record

    def all(self) -> Sequence[R]:
        """The records of what is ready, sorted by id."""
        names = sorted(name.removesuffix(_RECORD) for name in os.listdir(self.directory) if name.endswith(_RECORD))
        found = [self.find(name) for name in names if not name.startswith(".")]
        return [record for record in found if record is not None and record.ready]

    def open(self) -> None:
        """Make the directory, and the reserve when there is room for it."""
        os.makedirs(self.directory, exist_ok=True)
        self._keep_reserve()

    def put(self, record: R, *, spend_reserve: bool = False) -> R:
        """Write the record, whole or not at all; with ``spend_reserve`` on a full filesystem, too: what detaches and
        deletes must go on there."""
        path, data = self._record(record.id), self._codec.encode(record)
        try:
            write_atomically(path, data)
        except OSError as error:
            if not spend_reserve or error.errno not in _FULL:
                raise
            remove_durably(os.path.join(self.directory, _RESERVE))
            write_atomically(path, data)
        return record

    def begin(self, record: R) -> None:
        """Announce an image that is about to be made. FailedPrecondition when a foreign file is in its place; Aborted
        when somebody else has made it meanwhile."""
        found = self.find(record.id)
        if found is not None and found.ready:
            raise Aborted(f"{self._what} {record.id} has just been made by another process")
        self.remove(record.id)
        if os.path.lexists(self.image(record.id)):
            raise FailedPrecondition(
                f"{self.image(record.id)} is in the way of {self._what} {record.id}, and has no record",
                remedy="Somebody else put it there: move it away.",
            )
        self.put(replace(record, ready=False))

    def complete(self, record: R) -> R:
        """Make the image survive a power cut, and say that it is ready."""
        descriptor = os.open(self.image(record.id), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self.directory)
        return self.put(replace(record, ready=True))

    def remove(self, item_id: str) -> None:
        """Remove the image, its record, and what a killed writer left of it; what is absent is fine."""
        remove_leftovers(self._record(item_id))
        record = self.find(item_id)
        if record is None:
            return
        if record.ready:
            self.put(replace(record, ready=False), spend_reserve=True)
        remove_durably(self.image(item_id))
        remove_durably(self._record(item_id))
        self._keep_reserve()

    def _record(self, item_id: str) -> str:
        return os.path.join(self.directory, f"{item_id}{_RECORD}")

    def _keep_reserve(self) -> None:
        path = os.path.join(self.directory, _RESERVE)
        if not os.path.exists(path):
            with contextlib.suppress(OSError):
                # Full just now: the next deletion tries again.
                write_atomically(path, bytes(_RESERVE_BYTES))


def set_size(image: str, size: int, *, thick: bool) -> None:
    """Make the image that large; it is made when it is missing. What is new reads as zeros."""
    descriptor = os.open(image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if thick:
            os.posix_fallocate(descriptor, 0, size)
        os.ftruncate(descriptor, size)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def free_bytes(directory: str) -> int:
    """What can still be written to the filesystem of the directory."""
    return shutil.disk_usage(directory).free
