"""What the HTTP endpoint reads from files, and reads again when somebody has replaced them (cert-manager, a Secret)."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from rds_csi.errors import ConfigurationError
from rds_csi.logging import log

logger = logging.getLogger("rds_csi.rpc")

T = TypeVar("T")

# Device, inode, size in bytes and time of the last change in nanoseconds; None for a file that cannot be seen.
_Stamp = tuple[int, int, int, int] | None


class FromFiles(Generic[T]):
    """A value that stands in files: always that of the files as they are now, or else the last good one.

    Reading blocks, for microseconds: the files are small and lie in memory (a mounted Secret) or on a local disk.
    """

    def __init__(self, paths: Sequence[str], read: Callable[[], T]) -> None:
        """``read`` raises ConfigurationError when the files hold nothing usable; here it is the caller's."""
        self._paths = tuple(paths)
        self._read = read
        # Before the reading: files that change in the middle of it are read once more.
        self._stamps = self._look()
        self._value = read()
        # Why the files as they are now cannot be used, as it was logged; "" when they can.
        self._obstacle = ""

    def get(self) -> T:
        """The value. What cannot be used of new files is logged once, and the old value stays until it can be: rights,
        for one, are mended without a change of the file."""
        stamps = self._look()
        if stamps != self._stamps or self._obstacle:
            self._stamps = stamps
            self._read_again()
        return self._value

    def _read_again(self) -> None:
        try:
            self._value = self._read()
        except ConfigurationError as error:
            if str(error) != self._obstacle:
                self._obstacle = str(error)
                log(logger, logging.ERROR, "changed files cannot be used, the former content stays", error=str(error))
        else:
            self._obstacle = ""
            log(logger, logging.INFO, "changed files were read again", files=" ".join(self._paths))

    def _look(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
