"""The kernel's uevents: waits end early when what they wait for is announced, with their polling as fall-back.

Source: netlink(7), lib/kobject_uevent.c. A plugin in a network namespace of its own hears them as well: those of
devices that belong to no network namespace go to all of them.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rds_csi.retry import Sleep

_log = logging.getLogger(__name__)

# linux/netlink.h; the socket module does not name it.
_NETLINK_KOBJECT_UEVENT = 15
# The kernel's own messages; udev sends to group 2.
_KERNEL_GROUP = 1
# Bytes. The environment has at most 2048 (UEVENT_BUFFER_SIZE), before it comes the device's path.
_MESSAGE_BYTES = 16384
# Bytes, capped by net.core.rmem_max: hundreds of sessions that come or go at once.
_BUFFER_BYTES = 1 << 20
# Messages taken in one turn of the event loop, so that a storm leaves room for others.
_TURN = 128


@dataclass(frozen=True, slots=True)
class Uevent:
    """One uevent: ``action`` (add, remove, change…), ``devpath`` without the mount point of sysfs, ``subsystem``
    (nvme, block…) and the device node's name below /dev ("" for a device without one)."""

    action: str
    devpath: str
    subsystem: str
    devname: str


class Bell:
    """For one waiter: a sleep that ends early when a wanted uevent comes."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """End the sleep that is going on, or else the next one at its begin."""
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep ``seconds``, or until a wanted uevent; one that came since the last sleep counts."""
        if not self._rung.is_set():
            pauses = (asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._rung.wait()))
            try:
                await asyncio.wait(pauses, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pause in pauses:
                    pause.cancel()
                await asyncio.gather(*pauses, return_exceptions=True)
        self._rung.clear()


def open_kernel_uevents() -> socket.socket:
    """A non-blocking socket that gets the kernel's uevents. OSError where that is not allowed, or not there."""
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_KOBJECT_UEVENT
    )
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        opened.bind((0, _KERNEL_GROUP))
    except BaseException:
        opened.close()
        raise
    return opened


class Uevents:
    """The uevents of this host, shared by everybody who listens; one socket, open while somebody does.

    Where the socket cannot be had, everything works without it: bells only sleep.
    """

    def __init__(self, open_socket: Callable[[], socket.socket] = open_kernel_uevents) -> None:
        self._open_socket = open_socket
        self._refused = False
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listeners: dict[Bell, Callable[[Uevent], bool]] = {}

    @contextmanager
    def listening(self, wanted: Callable[[Uevent], bool], sleep: Sleep = asyncio.sleep) -> Iterator[Bell]:
        """A bell that rings at every uevent that is ``wanted``, from now on until the block ends.

        Begin to listen before what is to be announced, then look, then sleep: nothing is missed. ``sleep`` is
        what passes the time of the bell.
        """
        bell = Bell(sleep)
        self._listeners[bell] = wanted
        try:
            if self._socket is None:
                self._open()
            yield bell
        finally:
            del self._listeners[bell]
            if not self._listeners:
                self.close()

    def close(self) -> None:
        """Give the socket back; bells that are still listened to only sleep from now on."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._socket = self._loop = None

    def _open(self) -> None:
        if self._refused:
            return
        try:
            opened = self._open_socket()
        except OSError as error:
            self._refused = True
            _log.warning("the kernel's uevents cannot be had, devices are polled for: %s", error)
            return
        self._socket, self._loop = opened, asyncio.get_running_loop()
        self._loop.add_reader(opened, self._receive, opened)

    def _receive(self, opened: socket.socket) -> None:
        for _ in range(_TURN):
            try:
                message, sender = opened.recvfrom(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error)
                return
            # netlink(7): the sender's port id is 0 for the kernel; others may send, too.
            event = parse(message) if sender[0] == 0 else None
            if event is not None:
                self._tell(event)

    def _tell(self, event: Uevent) -> None:
        for bell, wanted in self._listeners.items():
            if wanted(event):
                bell.ring()

    def _lost(self, error: OSError) -> None:
        """Nobody knows what was missed: everybody is to look."""
        if error.errno != errno.ENOBUFS:
            _log.warning("the kernel's uevents ended, devices are polled for: %s", error)
            self.close()
        for bell in self._listeners:
            bell.ring()


def parse(message: bytes) -> Uevent | None:
    """A uevent in the kernel's format: ``add@/devices/…``, then ``KEY=value`` pairs, each ended by a zero byte.

    None for udev's own messages and for torn ones.
    """
    head, _, body = message.decode("utf-8", "surrogateescape").partition("\0")
    if not body.endswith("\0"):
        return None
    values = dict(pair.partition("=")[::2] for pair in body.split("\0"))
    action, devpath, subsystem = (values.get(key, "") for key in ("ACTION", "DEVPATH", "SUBSYSTEM"))
    if not (action and devpath and subsystem) or head != f"{action}@{devpath}":
        return None
    return Uevent(action, devpath, subsystem, values.get("DEVNAME", ""))
