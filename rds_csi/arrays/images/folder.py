"""The directory of an image array: its layout, its lock, and what in it is provably ours."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from rds_csi.arrays.images import kernel
from rds_csi.atomic import TEMPORARY_PREFIX
from rds_csi.errors import ConfigurationError
from rds_csi.model.names import is_id
from rds_csi.model.sizes import MIB

VOLUMES = "volumes"
SNAPSHOTS = "snapshots"
GROUPS = "groups"

IMAGE = ".img"
RECORD = ".json"
# A record renamed so is being deleted. A rename needs no space, so that a full filesystem can be emptied.
RETIRED = ".deleting"

_LOCK = "lock"
# Blocks that the lock file holds, to rewrite a record on a full filesystem: its data, and inodes on xfs.
_RESERVE_BYTES = MIB


class Folder:
    """``<path>/{volumes,snapshots,groups}/`` with images and records, and the file ``lock``.

    While the lock is held, this process is the only writer: records may be cached in memory, and every
    temporary file found is a killed predecessor's.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock: int | None = None

    def below(self, kind: str) -> str:
        """The directory of one kind: VOLUMES, SNAPSHOTS or GROUPS."""
        return os.path.join(self.path, kind)

    def image(self, kind: str, record_id: str) -> str:
        """The path of an image."""
        return os.path.join(self.path, kind, record_id + IMAGE)

    def open(self) -> None:
        """Make the directories, take the lock (flock(2)), remove temporary files. Blocking.

        ConfigurationError when another process has the directory, or it cannot be written.
        """
        try:
            for kind in (VOLUMES, SNAPSHOTS, GROUPS):
                os.makedirs(self.below(kind), mode=0o700, exist_ok=True)
            descriptor = os.open(os.path.join(self.path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the array's directory {self.path} cannot be used: {error.strerror}",
                remedy="Name a directory that this user may write.",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise ConfigurationError(
                f"the array's directory {self.path} is in use by another process",
                remedy="Stop the other one, or give this one a directory of its own.",
            ) from None
        self._lock = descriptor
        self._remove_temporary()
        self.keep_reserve()

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def keep_reserve(self) -> None:
        """Let the lock file hold some blocks, if there is room and it does not hold them yet. Blocking."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            kernel.preallocate(self._lock, 0, _RESERVE_BYTES)
            os.ftruncate(self._lock, _RESERVE_BYTES)

    def spend_reserve(self) -> None:
        """Give those blocks back to the filesystem. Blocking."""
        assert self._lock is not None
        os.ftruncate(self._lock, 0)

    @property
    def is_open(self) -> bool:
        """Whether this process holds the lock."""
        return self._lock is not None

    def is_in_place(self) -> bool:
        """Whether the directory below the path is still the one that was opened (nothing was mounted over it,
        nothing was unmounted). Blocking."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(os.path.join(self.path, _LOCK)))
        except OSError:
            return False

    def strays(self) -> Iterator[str]:
        """Files that no record accounts for; they were put there by somebody else. Blocking."""
        for kind in (VOLUMES, SNAPSHOTS, GROUPS):
            names = set(os.listdir(self.below(kind)))
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                known = is_id(stem) and suffix in (IMAGE, RECORD, RETIRED)
                accounted = suffix != IMAGE or not names.isdisjoint({stem + RECORD, stem + RETIRED})
                if not (known and accounted) and not name.startswith(TEMPORARY_PREFIX):
                    yield os.path.join(self.below(kind), name)

    def _remove_temporary(self) -> None:
        for kind in (VOLUMES, SNAPSHOTS, GROUPS):
            for name in os.listdir(self.below(kind)):
                if name.startswith(TEMPORARY_PREFIX):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(self.below(kind), name))
