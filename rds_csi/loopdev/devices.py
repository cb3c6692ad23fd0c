"""Loop devices over files: found through sysfs and by their inode, made, grown and removed.

The kernel is the truth: nothing is remembered between two calls. Sources: loop(4); Documentation/ABI/testing/
sysfs-block-loop and sysfs-block.
"""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from rds_csi.errors import Unavailable
from rds_csi.loopdev.ioctls import Inode, LoopIoctls
from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths

# Appended by the kernel (d_path) when the backing file was unlinked.
DELETED_SUFFIX = " (deleted)"
# "size" in sysfs counts 512-byte sectors, whatever the device's own sector size.
_SECTOR_BYTES = 512
# No attribute that is read is longer: a path has at most PATH_MAX (4096) bytes. One read(2) gives it whole.
_ATTRIBUTE_BYTES = 8192
# What sysfs says of a device that is not bound, or vanishes while it is read.
_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO})
# Races for a free number: every attempt that is lost was won by one other user, of whom this process has 32 at most.
_ATTEMPTS = 64
# Seconds between looks at the node of a device that is new. On a devtmpfs it is there at once; udev takes a moment.
_NODE_PAUSES = (0.002, 0.01, 0.05, 0.2, 0.7)


@dataclass(frozen=True, slots=True)
class LoopDevice:
    """One bound loop device. ``backing_file`` is the kernel's text: a path, perhaps with DELETED_SUFFIX.

    ``whole`` is whether it shows the whole file; ``autoclear`` is whether it goes away by itself
    when the last user closes it. ``size`` in bytes.
    """

    name: str
    number: DeviceNumber
    size: int
    backing_file: str
    whole: bool
    autoclear: bool

    def path(self) -> str:
        """The path of the backing file, as it is or as it was before it was unlinked. Blocking."""
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


class LoopDevices:
    """The loop devices of the host. Every method is blocking: call it in a worker; OSError when the kernel refuses.

    Only devices that show the whole file, which was opened for writing, are looked at: any other belongs to
    somebody else.
    """

    def __init__(
        self, host: HostPaths, ioctls: LoopIoctls | None = None, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """``ioctls`` and ``sleep`` are the real ones unless a test brings its own."""
        self._host = host
        self._ioctls = ioctls or LoopIoctls()
        self._sleep = sleep

    @property
    def control(self) -> str:
        """The path of loop-control, by which devices are made."""
        return f"{self._host.dev}/loop-control"

    def node(self, name: str) -> str:
        """The path of the device node of ``name`` (``loop3``)."""
        return f"{self._host.dev}/{name}"

    def read(self, name: str) -> LoopDevice | None:
        """The device ``name``; None when it is not bound, or vanishes while it is read."""
        directory = f"{self._host.sys}/block/{name}"
        try:
            backing_file = _read(f"{directory}/loop/backing_file")
            # Not "ro": a device of ours is read-only while its volume is published so (BLKROSET).
            whole = _read(f"{directory}/loop/offset") == "0" and _read(f"{directory}/loop/sizelimit") == "0"
            device = LoopDevice(
                name=name,
                number=DeviceNumber.parse(_read(f"{directory}/dev")),
                size=int(_read(f"{directory}/size")) * _SECTOR_BYTES,
                backing_file=backing_file,
                whole=whole,
                autoclear=_read(f"{directory}/loop/autoclear") == "1",
            )
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        return device if backing_file else None

    def bound(self, path: str) -> Bound:
        """The devices of ``path``.

        The text in sysfs only narrows the search: a path seen from another mount namespace (the driver's container
        before its restart) differs in all but its last part, and a file that was made anew has the same path but
        not the same content. What decides is the inode.
        """
        wanted = Inode.of(path)
        current, unlinked = [], []
        candidates = (self._candidate(name, path) for name in self._names())
        for loop in sorted((loop for loop in candidates if loop), key=lambda loop: loop.number):
            behind = self._ioctls.inode(self.node(loop.name))
            if behind is None:
                continue
            if behind == wanted:
                current.append(loop)
            elif _was_at(loop, path):
                unlinked.append(loop)
        return Bound(tuple(current), tuple(unlinked))

    def current(self, name: str, path: str) -> LoopDevice | None:
        """The device ``name`` if it is one of the file that is now at ``path``: that spares looking at them all."""
        loop, wanted = self._candidate(name, path), Inode.of(path)
        if loop is None or wanted is None:
            return None
        return loop if self._ioctls.inode(self.node(name)) == wanted else None

    def attach(self, path: str, *, direct_io: bool) -> LoopDevice:
        """A new device over the whole file, with direct I/O if the file's filesystem takes it.

        Unavailable when there is no device to be had.
        """
        image = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            name = self._configure(image, path, direct_io)
        finally:
            os.close(image)
        loop = self.read(name)
        if loop is None:
            raise Unavailable(f"somebody has detached {self.node(name)} as soon as it was attached to {path}")
        return loop

    def set_capacity(self, name: str) -> None:
        """Make the device as large as its file is now."""
        self._ioctls.set_capacity(self.node(name))

    def clear(self, name: str) -> None:
        """Detach the device; one that somebody has open goes when the last user closes it: see it gone."""
        self._ioctls.clear(self.node(name))

    def flush(self, path: str) -> None:
        """Bring what was written to the file, or to a device over it, into the file and onto the disk."""
        # The page cache of a block device is not that of the file below it: what was written to /dev/loopN
        # without O_DIRECT reaches the file only now. Pages of a mounted filesystem are that filesystem's own;
        # a crash-consistent copy does without them.
        for loop in self.bound(path).current:
            self._ioctls.flush(self.node(loop.name))
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _configure(self, image: int, path: str, direct_io: bool) -> str:
        for _ in range(_ATTEMPTS):
            name = f"loop{self._ioctls.get_free(self.control)}"
            self._see_node(name)
            try:
                self._ioctls.configure(self.node(name), image, path, direct_io=direct_io)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
            else:
                return name
        raise Unavailable(f"no free loop device for {path}: others took each of {_ATTEMPTS}")

    def _see_node(self, name: str) -> None:
        for pause in (*_NODE_PAUSES, 0.0):
            if os.path.exists(self.node(name)):
                return
            self._sleep(pause)
        raise Unavailable(f"{self.node(name)} did not appear", remedy="Is /dev the host's devtmpfs?")

    def _names(self) -> list[str]:
        try:
            names = os.listdir(f"{self._host.sys}/block")
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith("loop")]

    def _candidate(self, name: str, path: str) -> LoopDevice | None:
        """The device, if it shows the whole of a file whose path ends like ``path``: that spares opening others."""
        try:
            text = _read(f"{self._host.sys}/block/{name}/loop/backing_file")
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise
        if os.path.basename(path) not in (os.path.basename(text), os.path.basename(text.removesuffix(DELETED_SUFFIX))):
            return None
        loop = self.read(name)
        return loop if loop is not None and loop.whole else None


def _was_at(loop: LoopDevice, path: str) -> bool:
    """Whether the device's file was at ``path`` and was unlinked."""
    deleted = os.path.realpath(path) + DELETED_SUFFIX
    # A file may really be called so: then it is there.
    return loop.backing_file == deleted and not os.path.exists(deleted)


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(os.read(descriptor, _ATTRIBUTE_BYTES)).removesuffix("\n")
    finally:
        os.close(descriptor)
