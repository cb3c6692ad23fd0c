"""One operation per volume at a time: a set of what is running, no map that grows (design, rule 6)."""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rds_csi.errors import Aborted, ConfigurationError
from rds_csi.progress import Progress, current

# A process of another kind, the ``sweep`` command for one, works on the key.
_ANOTHER_PROCESS = "another rds-csi process"


class LockFile:
    """Locks among the processes of this host: one byte of one file for each key (fcntl(2), "record locks").

    The kernel gives them back when a process ends, however it ends, and no file is left for each key. Nothing
    else in the process may open the file: its closing would give all of them back.
    """

    def __init__(self, path: str) -> None:
        """ConfigurationError when the file cannot be made."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be opened: {error.strerror}", remedy="Name another --state-dir."
            ) from None

    def take(self, key: str) -> bool:
        """Take the lock of ``key``; False when another process has it. Never waits."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):
            # fcntl(2): EAGAIN or EACCES.
            return False
        return True

    def give_back(self, key: str) -> None:
        """Let other processes have ``key``; after ``close`` they have it already."""
        if self._descriptor < 0:
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _offset(key))

    def close(self) -> None:
        """Give all locks back."""
        os.close(self._descriptor)
        # The number may be another file's soon.
        self._descriptor = -1


def _offset(key: str) -> int:
    """The byte that stands for ``key``: 62 bits, so that two keys practically never meet."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") >> 2


@dataclass(frozen=True, slots=True)
class Running:
    """An operation that holds ``key``. ``progress`` is live: it goes on changing."""

    key: str
    operation: str
    progress: Progress


class OperationLocks:
    """Which keys (volume ids, NQNs) are being worked on. A second caller is turned away at once, never queued."""

    def __init__(self, shared: LockFile | None = None) -> None:
        """``shared``: keeps other processes of this host away as well."""
        self._running: dict[str, Running] = {}
        self._shared = shared

    @contextmanager
    def hold(self, operation: str, *keys: str) -> Iterator[None]:
        """Hold every key for the block; Aborted, naming the running operation, when one is held already."""
        for key in keys:
            if key in self._running:
                raise _aborted(self._running[key].operation, key, operation)
        progress = current() or Progress(operation)
        progress.subject = progress.subject or next(iter(keys), "")
        with contextlib.ExitStack() as undo:
            for key in dict.fromkeys(keys):
                if self._shared is not None:
                    if not self._shared.take(key):
                        raise _aborted(_ANOTHER_PROCESS, key, operation)
                    undo.callback(self._shared.give_back, key)
                self._running[key] = Running(key, operation, progress)
                undo.callback(self._running.pop, key)
            yield

    def is_held(self, key: str) -> bool:
        """Whether an operation of this process on ``key`` is running."""
        return key in self._running

    def running(self) -> Sequence[Running]:
        """What this process is running now."""
        return tuple(self._running.values())


def _aborted(running: str, key: str, operation: str) -> Aborted:
    return Aborted(
        f"{running} is running for {key}, so {operation} has to wait",
        remedy="The call is repeated by itself; nothing needs to be done.",
    )
