"""The disks that the device exports, really exported: through this kernel's NVMe target, over loop devices.

Sources: Documentation/filesystems/configfs.rst; drivers/nvme/target/configfs.c.
"""

import contextlib
import errno
import hashlib
import ipaddress
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from rds_csi.errors import Unavailable
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
_LINKED = frozenset({errno.EBUSY, errno.ENOTEMPTY})


@dataclass(slots=True)
class _Exported:
    """What was made for one export."""

    export: Export
    loop: str = ""


class NvmetExports:
    """Follows the exports of a device; an ``ExportListener``. One change at a time: the device sees to that."""

    def __init__(self, address: str, loops: LoopDevices, *, revalidates: bool = True, root: Path = ROOT) -> None:
        """``address`` is the IP address at which to listen; ``revalidates`` as in SimulatorOptions."""
        self._address = ipaddress.ip_address(address)
        self._loops = loops
        self._revalidates = revalidates
        self._root = root
        self._workers = Workers(1)
        self._exported: dict[str, _Exported] = {}
        # Ids of the ports that were made here, by TCP port.
        self._ports: dict[int, str] = {}

    async def changed(self, before: Export | None, after: Export | None) -> None:
        """Make the kernel export what the device does. OSError or Unavailable when it does not want to."""
        await self._workers.run(lambda: self._change(before, after), timeout=_CHANGE_SECONDS)

    async def close(self) -> None:
        """Take everything away that was exported."""
        await self._workers.run(self._remove_all, timeout=_CHANGE_SECONDS)

    def _change(self, before: Export | None, after: Export | None) -> None:
        if not (self._root / "subsystems").is_dir():
            raise Unavailable(
                "the kernel's NVMe target is not there: configfs has no nvmet",
                remedy="Run `modprobe -a nvmet nvmet-tcp loop` and `mount -t configfs configfs /sys/kernel/config`.",
            )
        if before is not None and (after is None or _moved(before, after)):
            self._remove(before.disk_id)
        if after is None:
            return
        known = self._exported.get(after.disk_id)
        if known is None:
            self._add(after)
            return
        if after.size != known.export.size:
            self._grow(known)
        self._set_hosts(after)
        known.export = after

    def _add(self, export: Export) -> None:
        subsystem = self._subsystem(export)
        # FileExistsError: somebody else's, which is left alone.
        subsystem.mkdir()
        exported = self._exported[export.disk_id] = _Exported(export)
        try:
            exported.loop = self._loops.attach(str(export.path), direct_io=False).name
            _write(subsystem / "attr_serial", hashlib.sha256(export.nqn.encode()).hexdigest()[:_SERIAL_LENGTH])
            namespace = subsystem / "namespaces" / _NSID
            namespace.mkdir()
            _write(namespace / "device_path", self._loops.node(exported.loop))
            # The same after a reboot of the device; another one for another disk of the same name.
            _write(namespace / "device_uuid", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{export.nqn}/{export.disk_id}")))
            _write(namespace / "enable", "1")
            self._set_hosts(export)
            # Last: no host sees a half-made export.
            (self._root / "ports" / self._port(export.port) / "subsystems" / export.nqn).symlink_to(subsystem)
        except BaseException:
            self._remove(export.disk_id)
            raise

    def _remove(self, disk_id: str) -> None:
        """Also what was made in part; each step is fine when there is nothing to do."""
        exported = self._exported.pop(disk_id, None)
        if exported is None:
            return
        export = exported.export
        port_id = self._ports.get(export.port, "")
        if port_id:
            (self._root / "ports" / port_id / "subsystems" / export.nqn).unlink(missing_ok=True)
            self._remove_unused_port(export.port)
        subsystem = self._subsystem(export)
        if subsystem.is_dir():
            for host in (subsystem / "allowed_hosts").iterdir():
                self._disallow(host)
            with contextlib.suppress(FileNotFoundError):
                (subsystem / "namespaces" / _NSID).rmdir()
            subsystem.rmdir()
        if exported.loop:
            self._loops.clear(exported.loop)

    def _remove_all(self) -> None:
        for disk_id in tuple(self._exported):
            self._remove(disk_id)

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
            host.mkdir(exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (allowed / name).symlink_to(host)
        for link in allowed.iterdir():
            if link.name not in export.allowed_hosts:
                self._disallow(link)
        if not export.allowed_hosts:
            _write(subsystem / "attr_allow_any_host", "1")

    def _disallow(self, link: Path) -> None:
        link.unlink()
        try:
            (self._root / "hosts" / link.name).rmdir()
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
                port.mkdir()
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
        port = self._root / "ports" / self._ports[number]
        if not any((port / "subsystems").iterdir()):
            port.rmdir()
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
