"""Loop devices over image files: found, made, grown and removed by ioctl; the kernel is the truth.

Sources: loop(4); linux/loop.h (struct loop_info64, struct loop_config, LOOP_*); Documentation/ABI/testing/
sysfs-block-loop (``loop/backing_file``).
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from rds_csi.errors import Unavailable
from rds_csi.model.host import HostPaths

_LOOP_CLR_FD = 0x4C01
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
# struct loop_info64: lo_device, lo_inode, then 216 bytes of which file_name (64) begins at 40.
_INFO = struct.Struct("=QQ216x")
# struct loop_config: fd, block_size, loop_info64 up to lo_file_name, the name, the rest, 8 reserved words.
_CONFIG = struct.Struct("=II56x64s112x64x")

# Races for a free number with other users of loop devices.
_ATTEMPTS = 16
# How long udev or a probe may hold on to a device that is being removed.
_GONE_SECONDS = 5.0
_GONE_INTERVAL_SECONDS = 0.05
# /sys/block/*/size counts sectors of 512 bytes, whatever the logical block size.
_SECTOR_BYTES = 512


class LoopDevices(Protocol):
    """The loop devices of this machine. Every method is blocking; OSError when the kernel refuses."""

    def find(self, image: str) -> Sequence[str]:
        """The names (``loop3``) of the devices over the image, those over its deleted file too."""
        ...

    def attach(self, image: str, guess: str = "") -> str:
        """The name of a device over the image, as large as the image: an existing one, else a new one.

        ``guess`` is looked at first, which spares looking at all devices.
        """
        ...

    def detach(self, image: str) -> None:
        """Remove every device over the image and see them gone; Unavailable when one is held open."""
        ...

    def flush(self, image: str) -> None:
        """Bring what was written to the image, or to a device over it, into the file and onto the disk."""
        ...

    def path(self, name: str) -> str:
        """The device node of ``name``."""
        ...


class KernelLoopDevices:
    """The loop devices of the running kernel, through the host's /sys and /dev."""

    def __init__(self, host: HostPaths) -> None:
        self._host = host

    def path(self, name: str) -> str:
        return os.path.join(self._host.dev, name)

    def find(self, image: str) -> Sequence[str]:
        try:
            names = os.listdir(os.path.join(self._host.sys, "block"))
        except FileNotFoundError:
            return []
        return [name for name in sorted(names) if name.startswith("loop") and self._is_over(name, image)]

    def attach(self, image: str, guess: str = "") -> str:
        existing = [guess] if guess and self._is_over(guess, image) else self.find(image)
        if existing:
            self._fit(existing[0], image)
            return existing[0]
        descriptor = os.open(image, os.O_RDWR | os.O_CLOEXEC)
        try:
            return self._configure(descriptor, image)
        finally:
            os.close(descriptor)

    def detach(self, image: str) -> None:
        for name in self.find(image):
            # ENXIO: it is gone already.
            with self._opened(name, os.O_RDONLY, errno.ENXIO) as device:
                if device is not None:
                    _ignoring(errno.ENXIO, device, _LOOP_CLR_FD)
        deadline = time.monotonic() + _GONE_SECONDS
        while names := self.find(image):
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{', '.join(names)} over {image} is still held open",
                    remedy="Look who holds it: lsof, findmnt, or a partition on it.",
                )
            time.sleep(_GONE_INTERVAL_SECONDS)

    def flush(self, image: str) -> None:
        # The page cache of a block device is not that of the file below it: what was written to /dev/loopN
        # without O_DIRECT reaches the image only now. Pages of a mounted filesystem are that filesystem's own;
        # a crash-consistent copy does without them.
        for name in self.find(image):
            with self._opened(name, os.O_RDONLY, errno.ENXIO, errno.EACCES, errno.EPERM) as device:
                if device is not None:
                    os.fsync(device)
        descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _is_over(self, name: str, image: str) -> bool:
        """By the identity of the file, as paths look different from another mount namespace; by the path only
        when the file is deleted."""
        backing = self._backing_file(name)
        # Whatever the mount namespace, the last part of the path is the same: that spares opening all others.
        if backing is None or not os.path.basename(backing).startswith(os.path.basename(image)):
            return False
        if backing == f"{image} (deleted)":
            return True
        try:
            wanted = os.stat(image)
        except FileNotFoundError:
            return False
        with self._opened(name, os.O_RDONLY, errno.ENOENT, errno.ENXIO, errno.EACCES, errno.EPERM) as device:
            if device is None:
                return backing == image
            status = bytearray(_INFO.size)
            try:
                fcntl.ioctl(device, _LOOP_GET_STATUS64, status, True)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return False
                raise
            return _INFO.unpack(status) == (wanted.st_dev, wanted.st_ino)

    def _backing_file(self, name: str) -> str | None:
        """The path as the kernel shows it; None when the device has no file."""
        try:
            with open(os.path.join(self._host.sys, "block", name, "loop", "backing_file")) as stream:
                return stream.read().rstrip("\n")
        except OSError:
            return None

    def _configure(self, descriptor: int, image: str) -> str:
        control = os.open(os.path.join(self._host.dev, "loop-control"), os.O_RDWR | os.O_CLOEXEC)
        try:
            for _ in range(_ATTEMPTS):
                name = f"loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
                with self._opened(name, os.O_RDWR) as device:
                    assert device is not None
                    config = _CONFIG.pack(descriptor, 0, os.fsencode(image)[:63])
                    try:
                        fcntl.ioctl(device, _LOOP_CONFIGURE, config)
                        return name
                    except OSError as error:
                        if error.errno != errno.EBUSY:
                            raise
        finally:
            os.close(control)
        raise Unavailable(f"no free loop device for {image}: others took each of {_ATTEMPTS}")

    def _fit(self, name: str, image: str) -> None:
        with open(os.path.join(self._host.sys, "block", name, "size")) as stream:
            size = int(stream.read()) * _SECTOR_BYTES
        if size != os.stat(image).st_size:
            with self._opened(name, os.O_RDONLY) as device:
                assert device is not None
                fcntl.ioctl(device, _LOOP_SET_CAPACITY, 0)

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int, *tolerated: int) -> Iterator[int | None]:
        """The device, open for the block; None when opening it fails with one of the tolerated errors."""
        try:
            device = os.open(self.path(name), flags | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in tolerated:
                device = None
            else:
                raise
        try:
            yield device
        finally:
            if device is not None:
                os.close(device)


def _ignoring(number: int, device: int, request: int) -> None:
    try:
        fcntl.ioctl(device, request, 0)
    except OSError as error:
        if error.errno != number:
            raise
