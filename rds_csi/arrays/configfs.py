"""The kernel's nvmet configuration, as directories, attributes and links of configfs.

Sources: Documentation/filesystems/configfs.rst; drivers/nvme/target/configfs.c.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Protocol

from rds_csi.errors import InvalidArgument


class Configfs(Protocol):
    """The tree below ``/sys/kernel/config/nvmet``. Paths are given part by part; every method is blocking.

    OSError as the kernel gives it: EBUSY for what is linked or in use, EINVAL and EACCES for values refused.
    """

    def exists(self, *path: str) -> bool:
        """Whether the directory, attribute or link is there; without arguments, whether nvmet is there."""
        ...

    def entries(self, *path: str) -> Sequence[str]:
        """The names of the directories and links in a directory, sorted; FileNotFoundError when it is absent."""
        ...

    def read(self, *path: str) -> str:
        """The value of an attribute without its line end."""
        ...

    def write(self, value: str, *path: str) -> None:
        """Set an attribute."""
        ...

    def make(self, *path: str) -> bool:
        """Make sure that the directory is there; the kernel fills in its attributes. False when it was."""
        ...

    def remove(self, *path: str) -> None:
        """Make sure that the directory is gone."""
        ...

    def link(self, target: Sequence[str], *path: str) -> bool:
        """Make sure that the link to the directory ``target`` is there. False when it was."""
        ...

    def unlink(self, *path: str) -> bool:
        """Make sure that the link is gone. False when it was."""
        ...


def check_part(part: str) -> str:
    """``part`` itself, when it can be one name of a path: NQNs come from nodes and may have any sign."""
    if not part or part in (".", "..") or "/" in part or "\0" in part:
        raise InvalidArgument(f"{part!r} cannot be a name in configfs: it has a slash or is empty")
    return part


class KernelConfigfs:
    """The configfs of the running kernel."""

    def __init__(self, root: str) -> None:
        """``root``: the host's ``/sys/kernel/config/nvmet``."""
        self.root = root

    def exists(self, *path: str) -> bool:
        return os.path.lexists(self._path(path))

    def entries(self, *path: str) -> Sequence[str]:
        with os.scandir(self._path(path)) as entries:
            return sorted(entry.name for entry in entries if entry.is_symlink() or entry.is_dir())

    def read(self, *path: str) -> str:
        with open(self._path(path)) as stream:
            return stream.read().rstrip("\n")

    def write(self, value: str, *path: str) -> None:
        # One write(2): configfs takes each as a whole value.
        descriptor = os.open(self._path(path), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path(path)) from None
        finally:
            os.close(descriptor)

    def make(self, *path: str) -> bool:
        try:
            os.mkdir(self._path(path))
        except FileExistsError:
            return False
        return True

    def remove(self, *path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(self._path(path))

    def link(self, target: Sequence[str], *path: str) -> bool:
        try:
            os.symlink(self._path(target), self._path(path))
        except FileExistsError:
            return False
        return True

    def unlink(self, *path: str) -> bool:
        try:
            os.unlink(self._path(path))
        except FileNotFoundError:
            return False
        return True

    def _path(self, parts: Sequence[str]) -> str:
        return os.path.join(self.root, *(check_part(part) for part in parts))
