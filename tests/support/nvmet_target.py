"""An NVMe/TCP target of this kernel made with bare configfs, so that connectors are tested without the array.

Source: drivers/nvme/target/configfs.c and Documentation/ABI of Linux 6.1 and 6.12.
"""

import contextlib
import itertools
import os
import subprocess
import uuid
from pathlib import Path
from typing import Self

from tests.support.nvme_settled import settle

CONFIGFS = Path("/sys/kernel/config")
NVMET = CONFIGFS / "nvmet"

ADDRESS = "127.0.0.1"
# Beside the ports that the driver's own array makes (4420, and configfs numbers from 1).
FIRST_PORT = 14420
FIRST_PORT_NUMBER = 1000

MIB = 1 << 20
DEFAULT_SIZE = 320 * MIB
_TOOL_SECONDS = 30.0

_numbers = itertools.count()


class NvmetTarget:
    """One subsystem with one namespace (NSID 1) on a port of its own, backed by a loop device on a sparse file.

    The listener is there only while the subsystem is linked: a broken link refuses connections.
    """

    def __init__(self, directory: Path, *, size: int = DEFAULT_SIZE, nqn: str = "", namespace_uuid: str = "") -> None:
        """Make and export it; ``directory`` (on a tmpfs) gets the backing file, ``size`` is in bytes."""
        number = next(_numbers)
        self.nqn = nqn or f"nqn.2026-01.io.rds-csi:test-{uuid.uuid4()}"
        self.uuid = namespace_uuid or str(uuid.uuid4())
        self.address = ADDRESS
        self.port = FIRST_PORT + number
        self.size = size
        self.subsystem = NVMET / "subsystems" / self.nqn
        self.namespace = self.subsystem / "namespaces" / "1"
        self._port = NVMET / "ports" / str(FIRST_PORT_NUMBER + number)
        self._link = self._port / "subsystems" / self.nqn
        self._hosts: set[str] = set()
        self._file = directory / f"target-{number}.img"
        self._loop = ""
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._export()
            undo.pop_all()

    def _export(self) -> None:
        with self._file.open("wb") as stream:
            stream.truncate(self.size)
        # A file on tmpfs as the namespace itself is refused without buffered_io and then knows no WRITE ZEROES.
        self._loop = _tool("losetup", "--find", "--show", str(self._file)).strip()
        self.namespace.mkdir(parents=True)
        _write(self.subsystem / "attr_allow_any_host", "1")
        _write(self.namespace / "device_path", self._loop)
        _write(self.namespace / "device_uuid", self.uuid)
        _write(self.namespace / "enable", "1")
        self._port.mkdir()
        portal = {"trtype": "tcp", "adrfam": "ipv4", "traddr": self.address, "trsvcid": str(self.port)}
        for name, value in portal.items():
            _write(self._port / f"addr_{name}", value)
        self.restore()

    def break_link(self) -> None:
        """An outage: every session is cut, new ones are refused."""
        settle(self.nqn)
        self._link.unlink()

    def restore(self) -> None:
        """The end of the outage."""
        self._link.symlink_to(self.subsystem)

    def disable_namespace(self) -> None:
        """The namespace goes away while the sessions stay."""
        _write(self.namespace / "enable", "0")

    def enable_namespace(self) -> None:
        """The namespace comes back."""
        _write(self.namespace / "enable", "1")

    def replace_uuid(self, namespace_uuid: str) -> None:
        """Another volume shows up under the same NQN and NSID."""
        self.disable_namespace()
        self.uuid = namespace_uuid
        _write(self.namespace / "device_uuid", self.uuid)
        self.enable_namespace()

    def grow(self, size: int) -> None:
        """Make the namespace ``size`` bytes; connected hosts are told by an event."""
        os.truncate(self._file, size)
        _tool("losetup", "--set-capacity", self._loop)
        _write(self.namespace / "revalidate_size", "1")
        self.size = size

    def allow_only(self, *host_nqns: str) -> None:
        """Let in no host but these; sessions that are there stay."""
        _write(self.subsystem / "attr_allow_any_host", "0")
        for host_nqn in host_nqns:
            host = NVMET / "hosts" / host_nqn
            host.mkdir(exist_ok=True)
            self._hosts.add(host_nqn)
            (self.subsystem / "allowed_hosts" / host_nqn).symlink_to(host)

    def close(self) -> None:
        """Remove whatever of it is there."""
        self._link.unlink(missing_ok=True)
        for host_nqn in self._hosts:
            (self.subsystem / "allowed_hosts" / host_nqn).unlink(missing_ok=True)
            # Another target may let the same host in.
            with contextlib.suppress(OSError):
                (NVMET / "hosts" / host_nqn).rmdir()
        for directory in (self._port, self.namespace, self.subsystem):
            with contextlib.suppress(FileNotFoundError):
                directory.rmdir()
        if self._loop:
            _tool("losetup", "--detach", self._loop)
            self._loop = ""
        self._file.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write(attribute: Path, value: str) -> None:
    attribute.write_text(value, encoding="ascii")


def _tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TOOL_SECONDS)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout
