"""The device of each exported image: one loop device, made, found again, grown and removed."""

import os
import time
from typing import Protocol

from rds_csi.errors import Unavailable
from rds_csi.loopdev.devices import LoopDevices

# How long udev or a probe may hold on to a device that is being removed.
_GONE_SECONDS = 5.0
_GONE_INTERVAL_SECONDS = 0.05


class ImageDevices(Protocol):
    """The block devices over images. Every method is blocking; OSError when the kernel refuses."""

    def attach(self, image: str, guess: str = "") -> str:
        """The name (``loop3``) of a device over the image, as large as the image: an existing one, else a new one.

        ``guess`` is looked at first, which spares looking at all devices.
        """
        ...

    def detach(self, image: str) -> None:
        """Remove every device over the image, or over its deleted file, and see them gone; Unavailable when one is
        held open."""
        ...

    def path(self, name: str) -> str:
        """The device node of ``name``."""
        ...

    def foreign(self, name: str, image: str) -> str:
        """The path of the file behind ``name`` if it is there and is not the image; else ""."""
        ...


class LoopImageDevices:
    """The loop devices of the running kernel."""

    def __init__(self, loops: LoopDevices) -> None:
        self._loops = loops

    def path(self, name: str) -> str:
        return self._loops.node(name)

    def foreign(self, name: str, image: str) -> str:
        loop = self._loops.read(name)
        # The kernel adds " (deleted)" to a file that is gone, so that does not exist.
        if loop is None or not os.path.exists(loop.backing_file) or self._loops.current(name, image) is not None:
            return ""
        same = os.path.exists(image) and os.path.samefile(loop.backing_file, image)
        return "" if same else loop.backing_file

    def attach(self, image: str, guess: str = "") -> str:
        guessed = self._loops.current(guess, image) if guess else None
        existing = (guessed,) if guessed is not None else self._loops.bound(image).current
        if not existing:
            # Without direct I/O: nvmet reaches the device past its page cache, so the file's is the only one, and
            # it is what makes a storage server quick. Hosts flush it.
            return self._loops.attach(image, direct_io=False).name
        loop = existing[0]
        if loop.size != os.stat(image).st_size:
            self._loops.set_capacity(loop.name)
        return loop.name

    def detach(self, image: str) -> None:
        for loop in self._loops.bound(image).all:
            self._loops.clear(loop.name)
        deadline = time.monotonic() + _GONE_SECONDS
        while left := self._loops.bound(image).all:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{', '.join(loop.name for loop in left)} over {image} is still held open",
                    remedy="Look who holds it: lsof, findmnt, or a partition on it.",
                )
            time.sleep(_GONE_INTERVAL_SECONDS)
