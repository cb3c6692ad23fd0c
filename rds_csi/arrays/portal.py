"""The nvmet port behind which volumes are exported: found, made, and removed when it was made here."""

import contextlib
import errno
import ipaddress
import threading
import zlib
from dataclasses import dataclass

from rds_csi.arrays.configfs import Configfs
from rds_csi.errors import ConfigurationError, Unavailable
from rds_csi.model.targets import DEFAULT_NVME_PORT

# Ports of this driver have ids from here on: people number theirs from 1.
_FIRST_ID = 0x4000
_IDS = 0x4000
# How many ids after the first one are tried when others have them.
_ID_ATTEMPTS = 16

# What listens at every address of a family; Linux takes IPv4 connections at :: too.
_WILDCARDS = {"ipv4": {"0.0.0.0", "::"}, "ipv6": {"::"}}  # noqa: S104 - compared with, never bound to


@dataclass(frozen=True, slots=True)
class Portal:
    """Where nodes connect to: an IP address of this machine, and a TCP port."""

    address: str
    port: int

    @property
    def family(self) -> str:
        """As nvmet names it (``addr_adrfam``)."""
        return f"ipv{ipaddress.ip_address(self.address).version}"


def parse_portal(host: str, port: int, form: str) -> Portal:
    """The portal in an array's URL; ``port`` 0 means the usual one. ConfigurationError for what nodes cannot
    connect to, and for names: nvmet listens at addresses only."""
    remedy = f"It reads {form}; the host is the IP address at which the nodes reach this machine."
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ConfigurationError(
            f"the array's URL names the host {host!r}, which is not an IP address", remedy=remedy
        ) from None
    if address.is_unspecified or address.is_multicast:
        raise ConfigurationError(f"nodes cannot connect to {host}", remedy=remedy)
    return Portal(str(address), port or DEFAULT_NVME_PORT)


class Port:
    """The port of the portal. A port that somebody else made at the same address is used, but never removed.

    Ownership is told by the id, which is derived from the portal: nothing needs to be remembered.
    """

    def __init__(self, configfs: Configfs, portal: Portal) -> None:
        self._configfs = configfs
        self.portal = portal
        # Volumes share the port: it must not go while another one is being linked.
        self._guard = threading.Lock()
        first = zlib.crc32(f"{portal.address} {portal.port}".encode()) % _IDS
        self._own_ids = [str(_FIRST_ID + (first + step) % _IDS) for step in range(_ID_ATTEMPTS)]

    def link(self, nqn: str) -> None:
        """Make sure that the subsystem is reachable. Unavailable when the portal cannot be listened at."""
        with self._guard:
            port_id = self._find() or self._make()
            try:
                self._configfs.link(("subsystems", nqn), "ports", port_id, "subsystems", nqn)
            except OSError as error:
                self._remove_unused(port_id)
                if error.errno in (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EINVAL):
                    raise Unavailable(
                        f"the kernel cannot listen at {self.portal.address} port {self.portal.port}: {error.strerror}",
                        remedy="Name an address of this machine in the array's URL, and a port that is free.",
                    ) from None
                raise

    def unlink(self, nqn: str) -> None:
        """Make sure that the subsystem is not reachable through any port; its controllers are gone then."""
        with self._guard:
            for port_id in self._ids():
                self._configfs.unlink("ports", port_id, "subsystems", nqn)
                self._remove_unused(port_id)

    def cut(self, nqn: str) -> None:
        """End every connection to the subsystem; nobody comes back before ``link``."""
        with self._guard:
            for port_id in self._ids():
                self._configfs.unlink("ports", port_id, "subsystems", nqn)

    def is_linked(self, nqn: str) -> bool:
        """Whether the subsystem is reachable through the portal."""
        port_id = self._find()
        return port_id is not None and self._configfs.exists("ports", port_id, "subsystems", nqn)

    def _ids(self) -> list[str]:
        return list(self._configfs.entries("ports")) if self._configfs.exists("ports") else []

    def _find(self) -> str | None:
        for port_id in self._ids():
            # One that another process is just removing.
            with contextlib.suppress(FileNotFoundError):
                if self._matches(port_id):
                    return port_id
        return None

    def _matches(self, port_id: str) -> bool:
        values = {
            name: self._configfs.read("ports", port_id, f"addr_{name}") for name in ("trtype", "traddr", "trsvcid")
        }
        return (
            values["trtype"] == "tcp"
            and values["trsvcid"] == str(self.portal.port)
            and (values["traddr"] == self.portal.address or values["traddr"] in _WILDCARDS[self.portal.family])
        )

    def _make(self) -> str:
        for port_id in self._own_ids:
            # One of our ids whose address is not set was left half-made by a killed process.
            made = self._configfs.make("ports", port_id)
            if made or self._configfs.read("ports", port_id, "addr_traddr") == "":
                self._configfs.write("tcp", "ports", port_id, "addr_trtype")
                self._configfs.write(self.portal.family, "ports", port_id, "addr_adrfam")
                self._configfs.write(str(self.portal.port), "ports", port_id, "addr_trsvcid")
                self._configfs.write(self.portal.address, "ports", port_id, "addr_traddr")
                return port_id
        raise Unavailable(
            f"the nvmet ports {self._own_ids[0]} to {self._own_ids[-1]} are all taken", remedy="Remove unused ones."
        )

    def _remove_unused(self, port_id: str) -> None:
        if port_id in self._own_ids and not self._configfs.entries("ports", port_id, "subsystems"):
            self._configfs.remove("ports", port_id)
