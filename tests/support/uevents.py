"""Made-up uevents over a socket pair, as they come from the kernel."""

import socket
from typing import Any

from rds_csi.nvme.uevents import Uevents


def message(action: str, devpath: str, subsystem: str, devname: str = "") -> bytes:
    """A uevent in the kernel's format."""
    pairs = {"ACTION": action, "DEVPATH": devpath, "SUBSYSTEM": subsystem, "DEVNAME": devname, "SEQNUM": "4711"}
    lines = [f"{action}@{devpath}", *(f"{key}={value}" for key, value in pairs.items() if value)]
    return "".join(f"{line}\0" for line in lines).encode()


class _Receiver(socket.socket):
    """The receiving end. A socket pair has no port ids, so that ``port`` is told; ``failures`` come first.
    ``endless`` is a message that never stops coming, once one has been sent."""

    port = 0
    endless = b""

    def __init__(self, inner: socket.socket) -> None:
        super().__init__(fileno=inner.detach())
        self.setblocking(False)
        self.failures: list[OSError] = []

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, Any]:
        if self.failures:
            raise self.failures.pop(0)
        return self.endless or self.recv(bufsize, flags), (self.port, 1)


class UeventSource:
    """``uevents`` gets what is sent here. Closed by its user."""

    def __init__(self) -> None:
        self.opened = 0
        self.receiver: _Receiver | None = None
        self.uevents = Uevents(self._open)
        self._sender: socket.socket | None = None

    def _open(self) -> socket.socket:
        self.close()
        self._sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.opened += 1
        self.receiver = _Receiver(receiver)
        return self.receiver

    def send(self, action: str, devpath: str, subsystem: str = "nvme", devname: str = "") -> None:
        """Announce something to those who listen now."""
        self.send_raw(message(action, devpath, subsystem, devname))

    def send_raw(self, data: bytes) -> None:
        """Any bytes as one message."""
        assert self._sender is not None, "nobody is listening"
        self._sender.send(data)

    def close(self) -> None:
        """Close the sending end."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
