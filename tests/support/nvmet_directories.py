"""Plain directories that come and go as those of the kernel's NVMe target do in configfs."""

import errno
import os
from pathlib import Path

from rds_csi.simulator.nvmet import Directories

_SUBSYSTEM = ("attr_allow_any_host", "attr_serial")
_NAMESPACE = ("device_path", "device_uuid", "enable")
_PORT = ("addr_trtype", "addr_adrfam", "addr_traddr", "addr_trsvcid")
# What the kernel makes in a new directory, by the part of the tree in which it is made.
_MADE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "subsystems": (("namespaces", "allowed_hosts"), _SUBSYSTEM),
    "namespaces": ((), _NAMESPACE),
    "ports": (("subsystems",), _PORT),
    "hosts": ((), ()),
}


class NvmetDirectories:
    """``root`` is the tree. Paths in ``stuck`` cannot be removed, paths in ``refused`` cannot be made."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stuck: set[Path] = set()
        self.refused: set[Path] = set()
        for name in ("subsystems", "ports", "hosts"):
            (root / name).mkdir(parents=True)
        self.directories = Directories(self.make, self.remove)

    def make(self, path: Path) -> None:
        if path in self.refused:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        path.mkdir()
        directories, attributes = _MADE[path.parent.name]
        for name in directories:
            (path / name).mkdir()
        for name in attributes:
            (path / name).touch()

    def remove(self, path: Path) -> None:
        """Refused while something is linked to it, or lies in it."""
        if not path.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        linked = any(link.resolve() == path for link in self.root.rglob("*") if link.is_symlink())
        directories, attributes = _MADE[path.parent.name]
        if path in self.stuck or linked:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        if any(any((path / name).iterdir()) for name in directories):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(path))
        for name in attributes:
            (path / name).unlink()
        for name in directories:
            (path / name).rmdir()
        path.rmdir()

    def left(self) -> list[str]:
        """Every directory and link below the three tops."""
        found = (path for top in self.root.iterdir() for path in top.iterdir())
        return sorted(str(path.relative_to(self.root)) for path in found)
