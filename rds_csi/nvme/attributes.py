"""Directories of sysfs and the attributes in them, read with as few system calls as possible.

What is gone, not there or not for this process is "", None or empty (``GONE``); what could not be looked at
(EMFILE, ENOMEM…) is an OSError, never absence.
"""

import os
from types import TracebackType
from typing import Self

from rds_csi.model.oserrors import GONE

# An attribute is one page at most, and comes with one read (Documentation/filesystems/sysfs.rst).
_PAGE_BYTES = 4096
_ATTRIBUTE = os.O_RDONLY | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class Directory:
    """An open directory. All that is read through it is of one instance: when that goes and another takes its
    name, there is nothing more to be read here."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._descriptor)

    def open(self, name: str) -> "Directory | None":
        """The directory called ``name`` in this one; links are followed. None when it is gone."""
        return open_directory(name, self._descriptor)

    def entries(self) -> dict[str, int]:
        """Every name with the inode number of its entry: of a link itself, not of what it names.

        The kernel never gives a number of sysfs twice (fs/kernfs/dir.c, 64-bit): the same name with the same
        number is the same thing.
        """
        try:
            with os.scandir(self._descriptor) as found:
                return {entry.name: entry.inode() for entry in found}
        except OSError as error:
            if error.errno in GONE:
                return {}
            raise

    def read(self, name: str) -> str:
        """The attribute ``name``, which may be a relative path, without its padding."""
        return read_attribute(name, self._descriptor)


def open_directory(path: str, at: int | None = None) -> Directory | None:
    """The directory at ``path``, relative to the descriptor ``at``; None when it is gone."""
    try:
        return Directory(os.open(path, _DIRECTORY, dir_fd=at))
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def read_attribute(path: str, at: int | None = None) -> str:
    """The attribute at ``path``, relative to the descriptor ``at``, without its padding."""
    try:
        descriptor = os.open(path, _ATTRIBUTE, dir_fd=at)
        try:
            return os.read(descriptor, _PAGE_BYTES).decode("utf-8", "replace").strip()
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in GONE:
            return ""
        raise
