"""Reads NVMe sessions from sysfs: class/nvme-subsystem, for native multipath on and off.

Source: Documentation/ABI and drivers/nvme/host/{sysfs,multipath,fabrics}.c of Linux 6.1 and 6.12. Everything
in these directories is a symlink or may vanish between two reads: what is gone is left out, never an error.
What could not be looked at (EMFILE, ENOMEM…) is an OSError, never absence. Blocking: call it in a worker.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from rds_csi.model.devices import DeviceNumber
from rds_csi.model.host import HostPaths
from rds_csi.nvme.attributes import Directory, open_directory, read_attribute
from rds_csi.nvme.reading import DISK, NO_FACTS, Facts, read_session
from rds_csi.nvme.sessions import Session, SessionIndex


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a subsystem: the inode number of its entry, what it is called, what never changes."""

    inode: int
    nqn: str
    facts: Facts


class NvmeSysfs:
    """The host's NVMe sessions as they are at each call. Remembered is only what never changes as long as a thing
    exists, so that a look at one session does not read all the others."""

    def __init__(self, host: HostPaths, opener: Callable[[str], Directory | None] = open_directory) -> None:
        """``opener`` opens the class directory, through which all sessions are read."""
        self._sys = host.sys
        self._open = opener
        self._subsystems = f"{host.sys}/class/nvme-subsystem"
        # By subsystem (nvme-subsys0), and the subsystem by its NQN. Several workers may be here at once: both are
        # only looked up, set by key, or replaced, and what is found there is verified.
        self._known: dict[str, _Known] = {}
        self._places: dict[str, str] = {}

    def scan(self) -> SessionIndex:
        """Every session. Linear in their number."""
        found: dict[str, list[Session]] = {}
        known: dict[str, _Known] = {}
        subsystems = self._open(self._subsystems)
        if subsystems is None:
            return SessionIndex()
        with subsystems:
            for name, inode in sorted(subsystems.entries().items()):
                before = self._known.get(name)
                read = read_session(subsystems, name, before.facts if before is not None else NO_FACTS)
                if read is not None:
                    session, facts = read
                    found.setdefault(session.nqn, []).append(session)
                    known[name] = _Known(inode, session.nqn, facts)
        self._remember(known)
        return SessionIndex(MappingProxyType({nqn: tuple(sessions) for nqn, sessions in found.items()}))

    def session(self, nqn: str) -> Session | None:
        """The session of ``nqn`` alone, as ``sessions`` finds it."""
        return self.sessions((nqn,)).get(nqn)

    def sessions(self, nqns: Iterable[str]) -> Mapping[str, Session]:
        """The sessions of these by their NQNs, without those that have none. Other subsystems cost their entry in one
        directory, and one small read when they are new; nothing at all when each of ``nqns`` has controllers and is
        where it was the last time."""
        subsystems = self._open(self._subsystems)
        if subsystems is None:
            return {}
        with subsystems:
            found = {nqn: self._in_place(subsystems, nqn) for nqn in nqns}
            missed = [nqn for nqn, session in found.items() if session is None]
            names = self._names(subsystems) if missed else {}
            for nqn in missed:
                looked = (self._at(subsystems, name, nqn) for name in names.get(nqn, ()))
                found[nqn] = SessionIndex({nqn: tuple(item for item in looked if item is not None)}).session(nqn)
        return {nqn: session for nqn, session in found.items() if session is not None}

    def nqn_of(self, number: DeviceNumber) -> str:
        """The NQN behind the block device ``number``; "" when it is not of an NVMe subsystem.

        The device's parent directory is the subsystem's (a multipath head) or the controller's (a disk of one
        path): both have ``subsysnqn``.
        """
        device = os.path.realpath(f"{self._sys}/dev/block/{number}")
        if not DISK.fullmatch(os.path.basename(device)):
            return ""
        return read_attribute(f"{os.path.dirname(device)}/subsysnqn")

    def native_multipath(self) -> bool:
        """Whether several controllers of one subsystem become one block device (nvme_core.multipath).

        A kernel without CONFIG_NVME_MULTIPATH has nvme_core without the parameter. True before nvme_core is loaded:
        what kernels with it, as Debian's, do unless told otherwise.
        """
        module = open_directory(f"{self._sys}/module/nvme_core")
        if module is None:
            return True
        with module:
            return module.read("parameters/multipath") == "Y"

    def write(self, controller: str, attribute: str, value: str) -> None:
        """Write an attribute of a controller. OSError when the kernel has no such one, or refuses."""
        path = f"{self._sys}/class/nvme/{controller}/{attribute}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)

    def _in_place(self, subsystems: Directory, nqn: str) -> Session | None:
        """The session of ``nqn`` when it has controllers and is where it was the last time."""
        place = self._places.get(nqn)
        session = self._at(subsystems, place, nqn) if place is not None else None
        return session if session is not None and session.controllers else None

    def _at(self, subsystems: Directory, name: str, nqn: str) -> Session | None:
        """The subsystem called ``name``, when it is that of ``nqn``."""
        known = self._known.get(name)
        read = read_session(subsystems, name, known.facts if known is not None else NO_FACTS)
        if read is None or read[0].nqn != nqn:
            return None
        if known is not None:
            self._known[name] = replace(known, facts=read[1])
        return read[0]

    def _names(self, subsystems: Directory) -> Mapping[str, Sequence[str]]:
        """What the subsystems of each NQN are called, in order: there may be a left-over beside its successor."""
        known: dict[str, _Known] = {}
        for name, inode in subsystems.entries().items():
            before = self._known.get(name)
            if before is None or before.inode != inode:
                before = _Known(inode, subsystems.read(f"{name}/subsysnqn"), NO_FACTS)
            if before.nqn:
                known[name] = before
        self._remember(known)
        names: dict[str, list[str]] = {}
        for name in sorted(known):
            names.setdefault(known[name].nqn, []).append(name)
        return names

    def _remember(self, known: dict[str, _Known]) -> None:
        self._known = known
        self._places = {subsystem.nqn: name for name, subsystem in known.items()}
