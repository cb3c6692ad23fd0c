"""Reads one NVMe subsystem's directory in sysfs into a ``Session``: whole controllers and namespaces, or none."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rds_csi.errors import InvalidArgument
from rds_csi.model.devices import DeviceNumber
from rds_csi.nvme.attributes import Directory
from rds_csi.nvme.sessions import LIVE, OFF, Controller, Namespace, Session

# The directories hold namespaces too (nvme0n1, nvme0c0n1): names decide, links do not.
_CONTROLLER = re.compile(r"nvme(\d+)")
# A disk or a multipath head. A path of a head (nvme0c1n1) is hidden and has no node.
DISK = re.compile(r"nvme\d+n(\d+)")
# "size" counts 512-byte sectors, whatever the namespace's own block size.
_SECTOR_BYTES = 512

# A directory's entry: its name and its inode number, so that a successor of the same name is another one.
_Entry = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Path:
    """What a controller shows and never changes."""

    transport: str
    hostnqn: str
    hostid: str
    cntrltype: str


@dataclass(frozen=True, slots=True)
class _Disk:
    """What a namespace's block device shows and never changes."""

    nsid: int
    number: DeviceNumber
    uuid: str
    nguid: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What never changes of the controllers and namespaces of one subsystem, so that it is read once."""

    paths: Mapping[_Entry, _Path] = field(default_factory=dict)
    disks: Mapping[_Entry, _Disk] = field(default_factory=dict)


NO_FACTS = Facts()


def read_session(subsystems: Directory, name: str, facts: Facts) -> tuple[Session, Facts] | None:
    """The subsystem called ``name`` as it is now, and the facts for the next time; None when it is gone.

    ``facts`` are those of the last time, of this subsystem or of one that had its name before.
    """
    directory = subsystems.open(name)
    if directory is None:
        return None
    with directory:
        nqn = directory.read("subsysnqn")
        return _Reading(name, nqn, facts).of(directory) if nqn else None


class _Reading:
    """Collects what one look at a subsystem finds."""

    def __init__(self, name: str, nqn: str, facts: Facts) -> None:
        self._name = name
        self._nqn = nqn
        self._facts = facts
        self._paths: dict[_Entry, _Path] = {}
        self._disks: dict[_Entry, _Disk] = {}
        self._controllers: list[Controller] = []
        self._namespaces: list[Namespace] = []
        self._incomplete: list[str] = []

    def of(self, directory: Directory) -> tuple[Session, Facts]:
        entries = directory.entries()
        self._add_namespaces(directory, entries, "")
        for name in _matching(_CONTROLLER, entries):
            inside = directory.open(name)
            # A disconnect under a mount leaves a dangling link to its controller (multipath off).
            if inside is not None:
                with inside:
                    self._add_controller(inside, (name, entries[name]))
        found = (tuple(self._controllers), tuple(self._namespaces), tuple(self._incomplete))
        session = Session(self._nqn, self._name, *found)
        return session, Facts(self._paths, self._disks)

    def _add_controller(self, inside: Directory, entry: _Entry) -> None:
        path = self._facts.paths.get(entry) or _Path(
            *(inside.read(attribute) for attribute in ("transport", "hostnqn", "hostid", "cntrltype"))
        )
        state = inside.read("state")
        address = dict(part.split("=", 1) for part in inside.read("address").split(",") if "=" in part)
        controller = Controller(
            name=entry[0],
            state=state,
            transport=path.transport,
            traddr=address.get("traddr", ""),
            trsvcid=address.get("trsvcid", ""),
            host_traddr=address.get("host_traddr", ""),
            host_iface=address.get("host_iface", ""),
            hostnqn=path.hostnqn,
            hostid=path.hostid,
            ctrl_loss_tmo=_seconds(inside.read("ctrl_loss_tmo")),
            reconnect_delay=_seconds(inside.read("reconnect_delay")),
            fast_io_fail_tmo=_seconds(inside.read("fast_io_fail_tmo")),
            keep_alive_tmo=_seconds(inside.read("kato")),
            cntrltype=path.cntrltype,
        )
        # Read last: attributes go in their order (sysfs_remove_group()), this one before all but "transport", so
        # that nothing above was missing because the controller was going. Its link may lead to a successor, too.
        if not (state and path.transport) or inside.read("subsysnqn") != self._nqn:
            return
        self._controllers.append(controller)
        # "cntrltype" is known once the controller has answered (nvme_init_identify()).
        if state == LIVE or entry in self._facts.paths:
            self._paths[entry] = path
        self._add_namespaces(inside, inside.entries(), entry[0])

    def _add_namespaces(self, directory: Directory, entries: Mapping[str, int], controller: str) -> None:
        for name in _matching(DISK, entries):
            entry = (name, entries[name])
            disk = self._facts.disks.get(entry) or _disk(directory, name)
            sectors = directory.read(f"{name}/size")
            if disk is None or not sectors.isdecimal():
                self._incomplete.append(name)
                continue
            self._disks[entry] = disk
            size = int(sectors) * _SECTOR_BYTES
            self._namespaces.append(Namespace(name, disk.nsid, disk.number, size, disk.uuid, disk.nguid, controller))


def _disk(directory: Directory, name: str) -> _Disk | None:
    """None when the device is not whole: not yet, or not any more."""
    inside = directory.open(name)
    if inside is None:
        return None
    with inside:
        number, nsid, uuid, nguid = (inside.read(attribute) for attribute in ("dev", "nsid", "uuid", "nguid"))
        # "dev" is made after all others and goes before them (drivers/base/core.c): while it is there, a UUID that
        # is not there is one that the target does not give.
        if not number or inside.read("dev") != number:
            return None
    try:
        return _Disk(int(nsid), DeviceNumber.parse(number), uuid.lower(), nguid.lower())
    except (ValueError, InvalidArgument):
        return None


def _matching(pattern: re.Pattern[str], names: Iterable[str]) -> list[str]:
    """In the order of their numbers."""
    matches = (match for name in names if (match := pattern.fullmatch(name)) is not None)
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]


def _seconds(text: str) -> int | None:
    if text == "off":
        return OFF
    return int(text) if text.removeprefix("-").isdecimal() else None
