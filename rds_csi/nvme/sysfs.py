"""Reads NVMe sessions from sysfs: class/nvme-subsystem, for native multipath on and off.

Source: Documentation/ABI and drivers/nvme/host/{sysfs,multipath,fabrics}.c of Linux 6.1 and 6.12. Everything
in these directories is a symlink or may vanish between two reads: what is gone is left out, never an error.
What could not be looked at (EMFILE, ENOMEM…) is an OSError, never absence. Blocking: call it in a worker.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from types import MappingProxyType

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.model.oserrors import GONE
from rds_csi.nvme.sessions import OFF, Controller, Namespace, Session, SessionIndex

# The class directories hold namespaces too (nvme0n1, nvme0c0n1): names decide, links do not.
_CONTROLLER = re.compile(r"nvme\d+")
# A disk or a multipath head. A path of a head (nvme0c1n1) is hidden and has no node.
_DISK = re.compile(r"nvme\d+n\d+")
# "size" counts 512-byte sectors, whatever the namespace's own block size.
_SECTOR_BYTES = 512


class NvmeSysfs:
    """The host's NVMe sessions, read anew at every call."""

    def __init__(self, host: HostPaths) -> None:
        self._sys = host.sys
        self._subsystems = f"{host.sys}/class/nvme-subsystem"

    def scan(self) -> SessionIndex:
        """Every session. Linear in their number."""
        found: dict[str, list[Session]] = {}
        for name, nqn in self._names():
            found.setdefault(nqn, []).append(self._session(name, nqn))
        return SessionIndex(MappingProxyType({nqn: tuple(sessions) for nqn, sessions in found.items()}))

    def session(self, nqn: str) -> Session | None:
        """The session of ``nqn`` alone: one small read for each other subsystem, a full look only at its own."""
        matching = tuple(self._session(name, nqn) for name, other in self._names() if other == nqn)
        return SessionIndex({nqn: matching}).session(nqn)

    def nqn_of(self, number: DeviceNumber) -> str:
        """The NQN behind the block device ``number``; "" when it is not of an NVMe subsystem.

        The device's parent directory is the subsystem's (a multipath head) or the controller's (a disk of one
        path): both have ``subsysnqn``.
        """
        device = os.path.realpath(f"{self._sys}/dev/block/{number}")
        return _read(f"{os.path.dirname(device)}/subsysnqn") if _DISK.fullmatch(os.path.basename(device)) else ""

    def native_multipath(self) -> bool:
        """Whether several controllers of one subsystem become one block device (nvme_core.multipath)."""
        return _read(f"{self._sys}/module/nvme_core/parameters/multipath") != "N"

    def write(self, controller: str, attribute: str, value: str) -> None:
        """Write an attribute of a controller. OSError when the kernel has no such one, or refuses."""
        path = f"{self._sys}/class/nvme/{controller}/{attribute}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def _names(self) -> Iterator[tuple[str, str]]:
        for name in sorted(_list(self._subsystems)):
            nqn = _read(f"{self._subsystems}/{name}/subsysnqn")
            if nqn:
                yield name, nqn

    def _session(self, name: str, nqn: str) -> Session:
        directory = f"{self._subsystems}/{name}"
        entries = _list(directory)
        names = sorted((entry for entry in entries if _CONTROLLER.fullmatch(entry)), key=_trailing_number)
        controllers, namespaces = [], list(_namespaces(directory, entries, ""))
        for controller in names:
            path = f"{directory}/{controller}"
            inside = _list(path)
            # A disconnect under a mount leaves a dangling link to its controller (multipath off).
            if inside:
                controllers.append(_controller(path, controller))
                namespaces += _namespaces(path, inside, controller)
        return Session(nqn, name, tuple(c for c in controllers if c.state), tuple(namespaces))


def _controller(path: str, name: str) -> Controller:
    address = dict(part.split("=", 1) for part in _read(f"{path}/address").split(",") if "=" in part)
    return Controller(
        name=name,
        state=_read(f"{path}/state"),
        transport=_read(f"{path}/transport"),
        traddr=address.get("traddr", ""),
        trsvcid=address.get("trsvcid", ""),
        host_traddr=address.get("host_traddr", ""),
        host_iface=address.get("host_iface", ""),
        hostnqn=_read(f"{path}/hostnqn"),
        hostid=_read(f"{path}/hostid"),
        ctrl_loss_tmo=_seconds(f"{path}/ctrl_loss_tmo"),
        reconnect_delay=_seconds(f"{path}/reconnect_delay"),
        fast_io_fail_tmo=_seconds(f"{path}/fast_io_fail_tmo"),
        keep_alive_tmo=_seconds(f"{path}/kato"),
    )


def _namespaces(directory: str, entries: list[str], controller: str) -> Iterator[Namespace]:
    for device in sorted((entry for entry in entries if _DISK.fullmatch(entry)), key=_trailing_number):
        path = f"{directory}/{device}"
        # Anything missing or half-gone makes these numbers unreadable: then the namespace is not there.
        with contextlib.suppress(ValueError):
            yield Namespace(
                device=device,
                nsid=int(_read(f"{path}/nsid")),
                number=_number(_read(f"{path}/dev")),
                size=int(_read(f"{path}/size")) * _SECTOR_BYTES,
                uuid=_read(f"{path}/uuid").lower(),
                nguid=_read(f"{path}/nguid").lower(),
                controller=controller,
            )


def _number(text: str) -> DeviceNumber:
    major, _, minor = text.partition(":")
    return DeviceNumber(int(major), int(minor))


def _trailing_number(name: str) -> int:
    return int(re.split(r"\D+", name)[-1])


def _seconds(path: str) -> int | None:
    text = _read(path)
    if text == "off":
        return OFF
    return int(text) if text.lstrip("-").isdecimal() else None


def _list(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _read(path: str) -> str:
    """An attribute without its padding; "" when it is gone (ENOENT, ENODEV), not there, or not for this process."""
    try:
        with open(path, "rb", buffering=0) as stream:
            return stream.read().decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno in GONE:
            return ""
        raise
