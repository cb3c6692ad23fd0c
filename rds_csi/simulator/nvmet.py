"""The disks that the device exports, really exported: through this kernel's NVMe target, over loop devices.

Sources: Documentation/filesystems/configfs.rst; drivers/nvme/target/configfs.c.
"""

import contextlib
import errno
import hashlib
import ipaddress
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rds_csi.errors import DriverError, Unavailable
from rds_csi.loopdev.devices import LoopDevices
from rds_csi.simulator.exports import Export
from rds_csi.workers import Workers

ROOT = Path("/sys/kernel/config/nvmet")
_NSID = "1"
# NVMe Base Specification 2.0, Identify Controller: the serial number has 20 bytes.
_SERIAL_LENGTH = 20
# Ids of ports that the simulator makes: people number theirs from 1, and this driver's array from 0x4000.
_FIRST_PORT_ID = 0x2000
_PORT_IDS = 64
# Seconds for one change; the kernel waits for the controllers of a subsystem that is taken away.
_CHANGE_SECONDS = 60.0
# Exports that may be stuck in the kernel while others are still taken away.
_WORKERS = 8
_LINKED = frozenset({errno.EBUSY, errno.ENOTEMPTY})

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Exported:
    """What was made for one export."""

    export: Export
    loop: str = ""
    undo: list[Callable[[], None]] = field(default_factory=list)
    """The steps back that are left, the first one last."""
    whole: bool = False
    """Whether everything of it was made, and nothing taken away again."""


@dataclass(frozen=True, slots=True)
class Directories:
    """How directories come and go in configfs, which fills them and empties them by itself."""

    make: Callable[[Path], None] = Path.mkdir
    remove: Callable[[Path], None] = Path.rmdir


class NvmetExports:
    """Follows the exports of a device; an ``ExportListener``. One change at a time: the device sees to that."""

    def __init__(
        self,
        address: str,
        loops: LoopDevices,
        *,
        revalidates: bool = True,
        root: Path = ROOT,
        directories: Directories = Directories(),
    ) -> None:
        """``address`` is the IP address at which to listen; ``revalidates`` as in SimulatorOptions."""
        self._address = ipaddress.ip_address(address)
        self._loops = loops
        self._revalidates = revalidates
        self._root = root
        self._directories = directories
        self._workers = Workers(_WORKERS)
        self._exported: dict[str, _Exported] = {}
        # Ids of the ports that were made here, by TCP port.
        self._ports: dict[int, str] = {}

    def check(self) -> None:
        """Unavailable when this kernel has no NVMe target. Blocks for a moment."""
        if not (self._root / "subsystems").is_dir():
            raise Unavailable(
                "the kernel's NVMe target is not there: configfs has no nvmet",
                remedy="Run `modprobe -a nvmet nvmet-tcp loop` and `mount -t configfs configfs /sys/kernel/config`.",
            )

    async def changed(self, before: Export | None, after: Export | None) -> None:
        """Make the kernel export what the device does. OSError or Unavailable when it does not want to."""
        export = after or before
        key = export.disk_id if export is not None else ""
        await self._workers.run(lambda: self._change(before, after), timeout=_CHANGE_SECONDS, key=key)

    async def close(self) -> None:
        """Take everything away that was exported. What the kernel keeps is logged, and the rest goes all the same."""
        for disk_id in tuple(self._exported):
            try:
                await self._workers.run(partial(self._remove, disk_id), timeout=_CHANGE_SECONDS, key=disk_id)
            except (OSError, DriverError) as error:
                _log.error("the export of disk %s stays in the kernel: %s", disk_id, error)

    def _change(self, before: Export | None, after: Export | None) -> None:
        self.check()
        if before is not None and (after is None or _moved(before, after)):
            self._remove(before.disk_id)
        if after is None:
            return
        known = self._exported.get(after.disk_id)
        if known is not None and not known.whole:
            # What an earlier removal has left.
            self._remove(after.disk_id)
            known = None
        if known is None:
            self._add(after)
            return
        # If one of these fails, the way back makes the export anew.
        known.whole = False
        if after.size != known.export.size:
            self._grow(known)
        self._set_hosts(after)
        known.export, known.whole = after, True

    def _add(self, export: Export) -> None:
        exported = _Exported(export)
        try:
            self._make_subsystem(exported)
            self._make_namespace(exported)
            self._set_hosts(export)
            # Last: no host sees a half-made export.
            exported.undo.append(lambda: self._remove_unused_port(export.port))
            link = self._root / "ports" / self._port(export.port) / "subsystems" / export.nqn
            link.symlink_to(self._subsystem(export))
            exported.undo.append(lambda: link.unlink(missing_ok=True))
            exported.whole = True
        except BaseException:
            try:
                self._remove(export.disk_id)
            except (OSError, DriverError) as error:
                _log.error("a half-made export of %s stays in the kernel: %s", export.nqn, error)
            raise

    def _make_subsystem(self, exported: _Exported) -> None:
        subsystem = self._subsystem(exported.export)
        try:
            self._directories.make(subsystem)
        except FileExistsError:
            raise Unavailable(
                f"{subsystem} is there already: another simulator's, or what a killed one has left",
                remedy=f"If nobody uses it, take its links out of {self._root}/ports/*/subsystems and remove it.",
            ) from None
        self._exported[exported.export.disk_id] = exported
        exported.undo.append(lambda: self._remove_directory(subsystem))
        exported.undo.append(lambda: self._disallow_all(subsystem))
        serial = hashlib.sha256(exported.export.nqn.encode()).hexdigest()[:_SERIAL_LENGTH]
        _write(subsystem / "attr_serial", serial)

    def _make_namespace(self, exported: _Exported) -> None:
        export = exported.export
        loop = exported.loop = self._loops.attach(str(export.path), direct_io=False).name
        exported.undo.append(lambda: self._loops.clear(loop))
        namespace = self._subsystem(export) / "namespaces" / _NSID
        self._directories.make(namespace)
        exported.undo.append(lambda: self._remove_directory(namespace))
        _write(namespace / "device_path", self._loops.node(loop))
        # The same after a reboot of the device; another one for another disk of the same name.
        _write(namespace / "device_uuid", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{export.nqn}/{export.disk_id}")))
        _write(namespace / "enable", "1")

    def _remove(self, disk_id: str) -> None:
        """Every step back, whatever becomes of the others; those that failed are left for the next time.

        The first failure is raised in the end; the export is forgotten when nothing of it is left.
        """
        exported = self._exported.get(disk_id)
        if exported is None:
            return
        exported.whole = False
        failures: list[OSError | DriverError] = []
        left = []
        while exported.undo:
            step = exported.undo.pop()
            try:
                step()
            except (OSError, DriverError) as error:
                _log.warning("a part of the export %s stays in the kernel: %s", exported.export.nqn, error)
                failures.append(error)
                left.append(step)
        exported.undo = left[::-1]
        if failures:
            raise failures[0]
        del self._exported[disk_id]

    def _remove_directory(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._directories.remove(path)

    def _grow(self, exported: _Exported) -> None:
        self._loops.set_capacity(exported.loop)
        namespace = self._subsystem(exported.export) / "namespaces" / _NSID
        # revalidate_size: Linux 5.17 and later.
        if self._revalidates and (namespace / "revalidate_size").exists():
            _write(namespace / "revalidate_size", "1")
        else:
            _write(namespace / "enable", "0")
            _write(namespace / "enable", "1")

    # Hosts. The kernel asks who may come in on connect only: whoever is in stays in, as on a device of that age.

    def _set_hosts(self, export: Export) -> None:
        subsystem = self._subsystem(export)
        allowed = subsystem / "allowed_hosts"
        if export.allowed_hosts:
            # The kernel refuses to link hosts while any host is allowed, and the other way round.
            _write(subsystem / "attr_allow_any_host", "0")
        for name in export.allowed_hosts:
            host = self._root / "hosts" / _part(name)
            with contextlib.suppress(FileExistsError):
                self._directories.make(host)
            with contextlib.suppress(FileExistsError):
                (allowed / name).symlink_to(host)
        for link in allowed.iterdir():
            if link.name not in export.allowed_hosts:
                self._disallow(link)
        if not export.allowed_hosts:
            _write(subsystem / "attr_allow_any_host", "1")

    def _disallow_all(self, subsystem: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            for link in (subsystem / "allowed_hosts").iterdir():
                self._disallow(link)

    def _disallow(self, link: Path) -> None:
        link.unlink()
        try:
            self._remove_directory(self._root / "hosts" / link.name)
        except OSError as error:
            # Another subsystem lets it in.
            if error.errno not in _LINKED:
                raise

    # Ports.

    def _port(self, number: int) -> str:
        """The id of the port that listens at the TCP port; it is made if there is none yet."""
        if number in self._ports:
            return self._ports[number]
        for port_id in map(str, range(_FIRST_PORT_ID, _FIRST_PORT_ID + _PORT_IDS)):
            port = self._root / "ports" / port_id
            try:
                self._directories.make(port)
            except FileExistsError:
                # Another simulator's.
                continue
            self._ports[number] = port_id
            _write(port / "addr_trtype", "tcp")
            _write(port / "addr_adrfam", f"ipv{self._address.version}")
            _write(port / "addr_traddr", str(self._address))
            _write(port / "addr_trsvcid", str(number))
            return port_id
        raise Unavailable(f"the nvmet ports from {_FIRST_PORT_ID} on are all taken", remedy="Remove unused ones.")

    def _remove_unused_port(self, number: int) -> None:
        port_id = self._ports.get(number)
        if port_id is None:
            return
        port = self._root / "ports" / port_id
        if not any((port / "subsystems").iterdir()):
            self._remove_directory(port)
            del self._ports[number]

    def _subsystem(self, export: Export) -> Path:
        return self._root / "subsystems" / _part(export.nqn)


def _moved(before: Export, after: Export) -> bool:
    """Whether hosts find the disk elsewhere now, or another file there."""
    return (before.nqn, before.port, before.path) != (after.nqn, after.port, after.path)


def _part(name: str) -> str:
    """A name that configfs can take; OSError for one that would lead elsewhere."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a name for configfs", name)
    return name


def _write(attribute: Path, value: str) -> None:
    # One write(2): configfs takes each as a whole value.
    descriptor = os.open(attribute, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
