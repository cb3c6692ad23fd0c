"""A kernel's NVMe target and loop devices made of memory, which refuse what the kernel refuses.

For tests and for trying the array without root: behaviour after drivers/nvme/target/configfs.c.
"""

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

Path = tuple[str, ...]

# The attributes and directories that the kernel makes with each directory, with their first values.
_SUBSYSTEM_ATTRIBUTES = {"attr_allow_any_host": "0", "attr_serial": "0123456789abcdef0123"}
_NAMESPACE_ATTRIBUTES = {
    "device_path": "(null)",
    "device_uuid": "00000000-0000-0000-0000-000000000000",
    "enable": "0",
    "revalidate_size": "",
}
_PORT_ATTRIBUTES = {"addr_trtype": "", "addr_adrfam": "", "addr_traddr": "", "addr_trsvcid": ""}


@dataclass(slots=True)
class MemoryConfigfs:
    """The tree below ``nvmet``. ``connected`` may hold (NQN, host NQN) pairs: what fencing has to end."""

    addresses: frozenset[str] = frozenset({"127.0.0.1", "192.0.2.1", "::1"})
    directories: set[Path] = field(default_factory=lambda: {(), ("subsystems",), ("ports",), ("hosts",)})
    attributes: dict[Path, str] = field(default_factory=dict)
    links: dict[Path, Path] = field(default_factory=dict)
    connected: set[tuple[str, str]] = field(default_factory=set)
    revalidated: list[str] = field(default_factory=list)
    # How many writing calls are still let through; afterwards every one raises ``stop``.
    calls_left: int | None = None
    stop: BaseException = field(default_factory=lambda: OSError(errno.EIO, os.strerror(errno.EIO)))

    def connect(self, nqn: str, host: str) -> bool:
        """A host connects: only where it is allowed and the subsystem is linked to a port."""
        linked = any(path[2:] == ("subsystems", nqn) for path in self.links if path[0] == "ports")
        allowed = ("subsystems", nqn, "allowed_hosts", host) in self.links
        if linked and allowed:
            self.connected.add((nqn, host))
        return linked and allowed

    def exists(self, *path: str) -> bool:
        return path in self.directories or path in self.attributes or path in self.links

    def entries(self, *path: str) -> Sequence[str]:
        if path not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(path))
        return sorted(
            item[-1] for item in (*self.directories, *self.links) if len(item) == len(path) + 1 and item[:-1] == path
        )

    def read(self, *path: str) -> str:
        if path not in self.attributes:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(path))
        return self.attributes[path]

    def write(self, value: str, *path: str) -> None:
        self._count()
        self.read(*path)
        name = path[-1]
        enabled = self.attributes.get((*path[:-1], "enable")) == "1"
        if name in ("device_path", "device_uuid") and enabled:
            _refuse(errno.EBUSY, path)
        if name.startswith("addr_") and self.entries(*path[:-1], "subsystems"):
            _refuse(errno.EACCES, path)
        if name == "enable" and value == "1" and self.attributes[(*path[:-1], "device_path")] == "(null)":
            _refuse(errno.ENXIO, path)
        if name == "revalidate_size":
            if not enabled:
                _refuse(errno.EINVAL, path)
            self.revalidated.append(path[1])
        self.attributes[path] = value

    def make(self, *path: str) -> bool:
        self._count()
        if path in self.directories:
            return False
        if path[:-1] not in self.directories:
            _refuse(errno.ENOENT, path)
        self.directories.add(path)
        attributes: dict[str, str] = {}
        if path[0] == "subsystems" and len(path) == 2:
            attributes = _SUBSYSTEM_ATTRIBUTES
            self.directories |= {(*path, "namespaces"), (*path, "allowed_hosts")}
        elif path[0] == "subsystems" and len(path) == 4:
            attributes = _NAMESPACE_ATTRIBUTES
        elif path[0] == "ports":
            attributes = _PORT_ATTRIBUTES
            self.directories.add((*path, "subsystems"))
        self.attributes |= {(*path, name): value for name, value in attributes.items()}
        return True

    def remove(self, *path: str) -> None:
        self._count()
        if path not in self.directories:
            return
        if path in self.links.values():
            _refuse(errno.EBUSY, path)
        inner = {item for item in self.directories if len(item) > len(path) and item[: len(path)] == path}
        own = {(*path, name) for name in ("namespaces", "allowed_hosts", "subsystems")}
        if inner - own or any(item[: len(path)] == path for item in self.links):
            _refuse(errno.ENOTEMPTY, path)
        self.directories -= {path, *inner}
        self.attributes = {key: value for key, value in self.attributes.items() if key[: len(path)] != path}

    def link(self, target: Sequence[str], *path: str) -> bool:
        self._count()
        if path in self.links:
            return False
        if tuple(target) not in self.directories or path[:-1] not in self.directories:
            _refuse(errno.ENOENT, path)
        if path[0] == "ports" and self.attributes[(*path[:2], "addr_traddr")] not in self.addresses:
            _refuse(errno.EADDRNOTAVAIL, path)
        self.links[path] = tuple(target)
        return True

    def unlink(self, *path: str) -> bool:
        self._count()
        if self.links.pop(path, None) is None:
            return False
        if path[0] == "ports":
            self.connected = {pair for pair in self.connected if pair[0] != path[-1]}
        return True

    def _count(self) -> None:
        if self.calls_left is None:
            return
        if self.calls_left == 0:
            raise self.stop
        self.calls_left -= 1


@dataclass(slots=True)
class MemoryLoopDevices:
    """Loop devices as a table: name to image and size."""

    devices: dict[str, tuple[str, int]] = field(default_factory=dict)
    flushed: list[str] = field(default_factory=list)
    # Two threads must not be given the same free number.
    guard: threading.Lock = field(default_factory=threading.Lock)

    def find(self, image: str) -> Sequence[str]:
        return [name for name, (backing, _) in self.devices.items() if backing == image]

    def attach(self, image: str, guess: str = "") -> str:
        with self.guard:
            found = self.find(image)
            unused = (name for name in map("loop{}".format, range(4096)) if name not in self.devices)
            name = guess if guess in found else found[0] if found else next(unused)
            self.devices[name] = (image, os.stat(image).st_size)
            return name

    def detach(self, image: str) -> None:
        with self.guard:
            for name in self.find(image):
                del self.devices[name]

    def flush(self, image: str) -> None:
        self.flushed.append(image)

    def path(self, name: str) -> str:
        return f"/dev/{name}"

    def foreign(self, name: str, image: str) -> str:
        backing = self.devices[name][0] if name in self.devices else ""
        same = os.path.exists(image) and os.path.exists(backing) and os.path.samefile(backing, image)
        return backing if os.path.exists(backing) and not same else ""


def _refuse(number: int, path: Path) -> None:
    raise OSError(number, os.strerror(number), "/".join(path))
