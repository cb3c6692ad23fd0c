"""Loop devices as the kernel shows them: sysfs (block/loop*/loop) and LOOP_GET_STATUS64 (linux/loop.h)."""

import fcntl
import os
import struct
from dataclasses import dataclass

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths

# linux/loop.h: the ioctl, and struct loop_info64, which begins with lo_device and lo_inode.
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO64_BYTES = 232
_HEAD = struct.Struct("=QQ")

# Appended by the kernel (d_path) when the backing file was unlinked.
DELETED_SUFFIX = " (deleted)"
# Documentation/ABI: "size" in sysfs counts 512-byte sectors, whatever the device's own sector size.
_SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Inode:
    """The identity of a file: st_dev and st_ino of stat(2)."""

    device: int
    number: int

    @classmethod
    def of(cls, path: str) -> "Inode | None":
        """The file at ``path``; None when there is none."""
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(status.st_dev, status.st_ino)


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """One bound loop device. ``backing_file`` is the kernel's text: a path, perhaps with DELETED_SUFFIX.

    ``whole`` is whether it shows the whole file for writing; ``autoclear`` is whether it goes away by itself
    when the last user closes it. ``size`` in bytes.
    """

    name: str
    number: DeviceNumber
    size: int
    backing_file: str
    whole: bool
    autoclear: bool

    @property
    def path(self) -> str:
        """The path of the backing file, as it is or as it was before it was unlinked."""
        unlinked = self.backing_file.endswith(DELETED_SUFFIX) and not os.path.exists(self.backing_file)
        return self.backing_file.removesuffix(DELETED_SUFFIX) if unlinked else self.backing_file


@dataclass(frozen=True, slots=True)
class Bound:
    """The loop devices of one path, lowest number first: those of the file that is there now, and those of a file
    that was there and was unlinked, which is another volume, whatever its name was."""

    current: tuple[LoopDevice, ...] = ()
    unlinked: tuple[LoopDevice, ...] = ()

    @property
    def all(self) -> tuple[LoopDevice, ...]:
        """Both, the current ones first."""
        return self.current + self.unlinked


class LoopStatus:
    """Asks a loop device which file is behind it. Injected, so that tests on made-up trees need no ioctl."""

    def inode(self, node: str) -> Inode | None:
        """The file behind the device at ``node``; None when nothing is bound to it any more, or it cannot be
        asked. Blocking: call it in a worker."""
        buffer = bytearray(_LOOP_INFO64_BYTES)
        try:
            descriptor = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.ioctl(descriptor, _LOOP_GET_STATUS64, buffer)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        device, number = _HEAD.unpack_from(buffer)
        return Inode(device, number)


def read_loop_device(host: HostPaths, name: str) -> LoopDevice | None:
    """The loop device ``name``; None when it is not bound, or vanishes while it is read."""
    directory = f"{host.sys}/block/{name}"
    try:
        backing_file = _read(f"{directory}/loop/backing_file")
        whole = (
            _read(f"{directory}/loop/offset") == "0"
            and _read(f"{directory}/loop/sizelimit") == "0"
            and _read(f"{directory}/ro") == "0"
        )
        return LoopDevice(
            name=name,
            number=DeviceNumber.parse(_read(f"{directory}/dev")),
            size=int(_read(f"{directory}/size")) * _SECTOR_BYTES,
            backing_file=backing_file,
            whole=whole,
            autoclear=_read(f"{directory}/loop/autoclear") == "1",
        )
    except OSError:
        return None


def bound_to(host: HostPaths, path: str, status: LoopStatus) -> Bound:
    """The loop devices for the whole file at ``path``.

    The text in sysfs only narrows the search: a path seen from another mount namespace (the driver's container
    before its restart) differs in all but its last part, and a file that was made anew has the same path but
    not the same content. What decides is the inode.
    """
    wanted, deleted = Inode.of(path), os.path.realpath(path) + DELETED_SUFFIX
    current, unlinked = [], []
    for loop in sorted(_scan(host, os.path.basename(path)), key=lambda loop: loop.number):
        if wanted is not None and status.inode(f"{host.dev}/{loop.name}") == wanted:
            current.append(loop)
        # A file may really be called so: then it is there.
        elif loop.backing_file == deleted and not os.path.exists(deleted):
            unlinked.append(loop)
    return Bound(tuple(current), tuple(unlinked))


def _scan(host: HostPaths, basename: str) -> list[LoopDevice]:
    try:
        names = os.listdir(f"{host.sys}/block")
    except OSError:
        return []
    found = []
    for name in names:
        if not name.startswith("loop"):
            continue
        try:
            text = _read(f"{host.sys}/block/{name}/loop/backing_file")
        except OSError:
            continue
        if os.path.basename(text.removesuffix(DELETED_SUFFIX)) == basename or os.path.basename(text) == basename:
            loop = read_loop_device(host, name)
            if loop is not None and loop.whole:
                found.append(loop)
    return found


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as stream:
        return stream.read().removesuffix("\n")
